"""The host tier of the Armature worker, mapped into this process."""

from __future__ import annotations

import mmap
import os

import torch

from .frames import Head


class PoolError(Exception):
    """The pool that was named cannot be mapped."""


class Pool:
    """`blocks` of `stride` bytes, shared with the worker. It stays mapped until the last tensor over it is gone."""

    def __init__(self, view: torch.Tensor, epoch: str) -> None:
        self.bytes = view
        self.blocks = view.shape[0]
        self.epoch = epoch

    @staticmethod
    def open(head: Head, *, pin: bool) -> Pool:
        pid, fd = int(head["pid"]), int(head["fd"])
        stride, blocks, offset = int(head["blockStrideBytes"]), int(head["blocks"]), int(head["offsetBytes"])
        try:
            descriptor = os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise PoolError(f"the memory of process {pid} cannot be opened: {error}; run vLLM as the same user, in the same pid namespace") from error
        try:
            if start_ticks(pid) != int(head["startTicks"]):
                raise PoolError(f"process {pid} is another one by now")
            length = offset + stride * blocks
            if os.fstat(descriptor).st_size < length:
                raise PoolError(f"the memory of process {pid} is smaller than {length} bytes")
            mapping = mmap.mmap(descriptor, length, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        finally:
            os.close(descriptor)
        view = torch.frombuffer(mapping, dtype=torch.uint8, offset=offset, count=stride * blocks).view(blocks, stride)
        if pin and torch.cuda.is_available():
            # Page-locked, so that copies of the GPU run beside the model. Never run on a GPU by this project's tests.
            code = int(torch.cuda.cudart().cudaHostRegister(view.data_ptr(), view.numel(), 0))
            if code != 0:
                raise PoolError(f"cudaHostRegister of {view.numel()} bytes ended with {code}")
        return Pool(view, str(head["epoch"]))


def start_ticks(pid: int) -> int:
    """When the process started; the name before the fields may hold spaces and brackets."""
    with open(f"/proc/{pid}/stat", encoding="latin-1") as stat:
        return int(stat.read().rpartition(")")[2].split()[19])
