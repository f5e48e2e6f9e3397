// A libcuda.so.1 whose GPU is host memory, for checking the FFI binding where there is no GPU: the prototypes below must agree with
// NVIDIA's cuda.h (compile with -DWITH_CUDA_H -I DIR: the compiler compares them), and koffi-driver.ts must agree with them when it runs.
// Copies run when their event or stream is looked at for the second time; memory is a memfd, so that handles open in other processes.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef WITH_CUDA_H
#include <cuda.h>
#else
typedef int CUresult;
typedef int CUdevice;
typedef int CUpointer_attribute;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct { char bytes[16]; } CUuuid;
typedef struct { char reserved[64]; } CUipcMemHandle;
typedef struct { int type; int id; } CUmemLocation;
typedef struct { int srcAccessOrder; CUmemLocation srcLocHint, dstLocHint; unsigned int flags; } CUmemcpyAttributes;
#define CUDA_SUCCESS 0
#define CUDA_ERROR_INVALID_VALUE 1
#define CUDA_ERROR_OUT_OF_MEMORY 2
#define CUDA_ERROR_INVALID_CONTEXT 201
#define CUDA_ERROR_NOT_READY 600
#define cuMemAlloc cuMemAlloc_v2
#define cuMemFree cuMemFree_v2
#define cuMemGetAddressRange cuMemGetAddressRange_v2
#define cuMemHostRegister cuMemHostRegister_v2
#define cuDevicePrimaryCtxRelease cuDevicePrimaryCtxRelease_v2
#define cuIpcOpenMemHandle cuIpcOpenMemHandle_v2
#define cuStreamDestroy cuStreamDestroy_v2
#define cuEventDestroy cuEventDestroy_v2
#define cuMemcpyHtoDAsync cuMemcpyHtoDAsync_v2
#define cuMemcpyDtoHAsync cuMemcpyDtoHAsync_v2
#define cuMemcpyDtoDAsync cuMemcpyDtoDAsync_v2
#endif

// The layouts that the binding writes by hand.
_Static_assert(sizeof(CUmemcpyAttributes) == 24, "CUmemcpyAttributes");
_Static_assert(__builtin_offsetof(CUmemcpyAttributes, srcAccessOrder) == 0 && __builtin_offsetof(CUmemcpyAttributes, flags) == 20, "CUmemcpyAttributes");
_Static_assert(sizeof(CUipcMemHandle) == 64 && sizeof(CUuuid) == 16, "handles");
_Static_assert(sizeof(CUdeviceptr) == 8 && sizeof(CUdevice) == 4 && sizeof(CUresult) == 4 && sizeof(CUpointer_attribute) == 4, "scalars");
#ifdef WITH_CUDA_H
_Static_assert(CU_STREAM_NON_BLOCKING == 1 && CU_EVENT_DISABLE_TIMING == 2 && CU_MEMHOSTREGISTER_PORTABLE == 1, "flags");
_Static_assert(CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS == 1 && CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL == 9 && CU_MEMCPY_SRC_ACCESS_ORDER_STREAM == 1, "flags");
_Static_assert(CUDA_ERROR_STUB_LIBRARY == 34 && CUDA_ERROR_NO_DEVICE == 100 && CUDA_ERROR_INVALID_DEVICE == 101, "results");
_Static_assert(CUDA_ERROR_INVALID_CONTEXT == 201 && CUDA_ERROR_NOT_READY == 600 && CUDA_ERROR_ILLEGAL_ADDRESS == 700, "results");
_Static_assert(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED == 712 && CUDA_ERROR_NOT_SUPPORTED == 801 && CUDA_ERROR_DEINITIALIZED == 4, "results");
_Static_assert(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES == 701 && CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED == 704 && CUDA_ERROR_PEER_ACCESS_NOT_ENABLED == 705, "results");
_Static_assert(CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE == 708 && CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED == 713 && CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE == 720, "results");
_Static_assert(CUDA_ERROR_ECC_UNCORRECTABLE == 214 && CUDA_ERROR_NVLINK_UNCORRECTABLE == 220, "results");
#endif

#define MANY 256
#define QUEUE 65536
typedef struct { uint64_t base; size_t bytes; int fd, imported; } Range;
typedef struct { void *target; const void *source; size_t bytes; uint64_t event; } Operation;
typedef struct { Operation *queue; size_t head, tail; int looks; } Stream;
typedef struct { int done, looks; Stream *stream; } Event;
typedef struct { uint64_t magic; int pid, fd; uint64_t bytes; } Shared;

static Range ranges[MANY], pins[MANY];
static int initialised;
static CUcontext current;
static Stream zero;

static Range *range_of(Range *table, uint64_t at) {
  for (int i = 0; i < MANY; i++) if (table[i].bytes && at >= table[i].base && at < table[i].base + table[i].bytes) return &table[i];
  return NULL;
}
static Range *free_range(Range *table) {
  for (int i = 0; i < MANY; i++) if (!table[i].bytes) return &table[i];
  return NULL;
}
static CUresult map(int fd, size_t bytes, int imported, CUdeviceptr *address) {
  Range *range = free_range(ranges);
  void *at = range ? mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
  if (at == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  *range = (Range){ (uint64_t)(uintptr_t)at, bytes, fd, imported };
  *address = range->base;
  return CUDA_SUCCESS;
}
static CUresult unmap(CUdeviceptr base, int imported) {
  Range *range = range_of(ranges, base);
  if (!range || range->base != base || range->imported != imported) return CUDA_ERROR_INVALID_VALUE;
  munmap((void *)(uintptr_t)base, range->bytes);
  close(range->fd);
  range->bytes = 0;
  return CUDA_SUCCESS;
}
static void run(Stream *stream, const Event *until) {
  while (stream->head < stream->tail) {
    Operation *operation = &stream->queue[stream->head++ % QUEUE];
    if (operation->event) ((Event *)(uintptr_t)operation->event)->done = 1;
    else memmove(operation->target, operation->source, operation->bytes);
    if (until && (uint64_t)(uintptr_t)until == operation->event) return;
  }
}
static CUresult push(Stream *stream, Operation operation) {
  if (!stream->queue) stream->queue = calloc(QUEUE, sizeof(Operation));
  if (stream->tail - stream->head == QUEUE) run(stream, NULL); // the real one blocks
  stream->queue[stream->tail++ % QUEUE] = operation;
  stream->looks = 0;
  return CUDA_SUCCESS;
}
static CUresult copy(uint64_t target, uint64_t source, size_t bytes, CUstream handle) {
  if (!current) return CUDA_ERROR_INVALID_CONTEXT;
  Range *to = range_of(ranges, target), *from = range_of(ranges, source);
  if ((!to && !from) || (to && target + bytes > to->base + to->bytes) || (from && source + bytes > from->base + from->bytes)) return CUDA_ERROR_INVALID_VALUE;
  Stream *stream = handle ? (Stream *)handle : &zero;
  push(stream, (Operation){ (void *)(uintptr_t)target, (const void *)(uintptr_t)source, bytes, 0 });
  if ((!to && !range_of(pins, target)) || (!from && !range_of(pins, source))) run(stream, NULL); // not pinned
  return CUDA_SUCCESS;
}

CUresult cuInit(unsigned int flags) { initialised = 1; return flags ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS; }
CUresult cuDriverGetVersion(int *version) { *version = 12080; return CUDA_SUCCESS; }
CUresult cuGetErrorName(CUresult error, const char **name) {
  *name = error == CUDA_ERROR_INVALID_VALUE ? "CUDA_ERROR_INVALID_VALUE" : error == CUDA_ERROR_INVALID_CONTEXT ? "CUDA_ERROR_INVALID_CONTEXT" : "CUDA_ERROR";
  return CUDA_SUCCESS;
}
CUresult cuDeviceGetCount(int *count) { *count = 1; return initialised ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE; }
CUresult cuDeviceGet(CUdevice *device, int ordinal) { *device = ordinal; return ordinal == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE; }
CUresult cuDeviceGetName(char *name, int length, CUdevice device) { (void)device; snprintf(name, (size_t)length, "host memory (no GPU)"); return CUDA_SUCCESS; }
CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device) { (void)device; for (int i = 0; i < 16; i++) uuid->bytes[i] = (char)(i + 1); return CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) { (void)device; *context = (CUcontext)(uintptr_t)0x7fff12345678; return CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxRelease(CUdevice device) { (void)device; return CUDA_SUCCESS; }
CUresult cuCtxSetCurrent(CUcontext context) { current = context; return context == (CUcontext)(uintptr_t)0x7fff12345678 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT; }
CUresult cuMemAlloc(CUdeviceptr *address, size_t bytes) {
  int fd = memfd_create("host-cuda", MFD_CLOEXEC);
  if (!current || fd < 0 || ftruncate(fd, (off_t)bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  return map(fd, bytes, 0, address);
}
CUresult cuMemFree(CUdeviceptr address) { return unmap(address, 0); }
CUresult cuMemGetAddressRange(CUdeviceptr *base, size_t *bytes, CUdeviceptr address) {
  Range *range = range_of(ranges, address);
  if (!range) return CUDA_ERROR_INVALID_VALUE;
  *base = range->base;
  *bytes = range->bytes;
  return CUDA_SUCCESS;
}
CUresult cuPointerGetAttribute(void *value, CUpointer_attribute attribute, CUdeviceptr address) {
  if ((int)attribute != 9 || !range_of(ranges, address)) return CUDA_ERROR_INVALID_VALUE;
  *(int *)value = 0;
  return CUDA_SUCCESS;
}
CUresult cuMemHostRegister(void *address, size_t bytes, unsigned int flags) {
  Range *pin = free_range(pins);
  if (flags != 1 || !pin || range_of(pins, (uint64_t)(uintptr_t)address)) return CUDA_ERROR_INVALID_VALUE;
  *pin = (Range){ (uint64_t)(uintptr_t)address, bytes, -1, 0 };
  return CUDA_SUCCESS;
}
CUresult cuMemHostUnregister(void *address) {
  Range *pin = range_of(pins, (uint64_t)(uintptr_t)address);
  if (!pin) return CUDA_ERROR_INVALID_VALUE;
  pin->bytes = 0;
  return CUDA_SUCCESS;
}
CUresult cuIpcGetMemHandle(CUipcMemHandle *handle, CUdeviceptr address) {
  Range *range = range_of(ranges, address);
  if (!range || range->base != address) return CUDA_ERROR_INVALID_VALUE;
  Shared shared = { 0x5ade, getpid(), range->fd, range->bytes };
  memset(handle, 0x5a, sizeof *handle);
  memcpy(handle, &shared, sizeof shared);
  return CUDA_SUCCESS;
}
CUresult cuIpcOpenMemHandle(CUdeviceptr *address, CUipcMemHandle handle, unsigned int flags) {
  Shared shared;
  memcpy(&shared, &handle, sizeof shared);
  // The end of the struct too: it came by value, whole.
  if (shared.magic != 0x5ade || flags != 1 || handle.reserved[63] != 0x5a) return CUDA_ERROR_INVALID_VALUE;
  if (shared.pid == getpid()) return CUDA_ERROR_INVALID_CONTEXT;
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/fd/%d", shared.pid, shared.fd);
  int fd = open(path, O_RDWR | O_CLOEXEC);
  return fd < 0 ? CUDA_ERROR_INVALID_VALUE : map(fd, shared.bytes, 1, address);
}
CUresult cuIpcCloseMemHandle(CUdeviceptr address) { return unmap(address, 1); }
CUresult cuStreamCreate(CUstream *stream, unsigned int flags) {
  *stream = calloc(1, sizeof(Stream));
  return flags == 1 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuStreamDestroy(CUstream stream) { free(((Stream *)stream)->queue); free(stream); return CUDA_SUCCESS; }
CUresult cuStreamSynchronize(CUstream stream) { run(stream ? (Stream *)stream : &zero, NULL); return CUDA_SUCCESS; }
CUresult cuStreamQuery(CUstream handle) {
  Stream *stream = (Stream *)handle;
  if (stream->head == stream->tail) return CUDA_SUCCESS;
  if (stream->looks++ == 0) return CUDA_ERROR_NOT_READY;
  run(stream, NULL);
  return CUDA_SUCCESS;
}
CUresult cuEventCreate(CUevent *event, unsigned int flags) { *event = calloc(1, sizeof(Event)); return flags == 2 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE; }
CUresult cuEventDestroy(CUevent event) { free(event); return CUDA_SUCCESS; }
CUresult cuEventRecord(CUevent handle, CUstream stream) {
  Event *event = (Event *)handle;
  *event = (Event){ 0, 0, (Stream *)stream };
  return push((Stream *)stream, (Operation){ NULL, NULL, 0, (uint64_t)(uintptr_t)event });
}
CUresult cuEventQuery(CUevent handle) {
  Event *event = (Event *)handle;
  if (event->done) return CUDA_SUCCESS;
  if (event->looks++ == 0) return CUDA_ERROR_NOT_READY;
  run(event->stream, event);
  return CUDA_SUCCESS;
}
CUresult cuMemcpyHtoDAsync(CUdeviceptr target, const void *source, size_t bytes, CUstream stream) { return copy(target, (uint64_t)(uintptr_t)source, bytes, stream); }
CUresult cuMemcpyDtoHAsync(void *target, CUdeviceptr source, size_t bytes, CUstream stream) { return copy((uint64_t)(uintptr_t)target, source, bytes, stream); }
CUresult cuMemcpyDtoDAsync(CUdeviceptr target, CUdeviceptr source, size_t bytes, CUstream stream) { return copy(target, source, bytes, stream); }
#undef cuMemcpyBatchAsync
CUresult cuMemcpyBatchAsync(CUdeviceptr *targets, CUdeviceptr *sources, size_t *sizes, size_t count, CUmemcpyAttributes *attributes, size_t *starts, size_t attributeCount, size_t *failIndex, CUstream stream) {
  if (!stream || attributeCount != 1 || starts[0] != 0 || (int)attributes[0].srcAccessOrder != 1 || attributes[0].flags != 0) return CUDA_ERROR_INVALID_VALUE;
  for (size_t i = 0; i < count; i++) {
    CUresult result = sizes[i] == 0 ? CUDA_ERROR_INVALID_VALUE : copy(targets[i], sources[i], sizes[i], stream);
    if (result != CUDA_SUCCESS) {
      *failIndex = i;
      return result;
    }
  }
  return CUDA_SUCCESS;
}
