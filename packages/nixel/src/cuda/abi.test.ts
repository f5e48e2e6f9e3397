import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, test } from 'vitest';
import { transferTransportRules } from '@armature/contracts/testing/transfer-transport';
import { realClock, recordingLogger } from '../test-clock.test.support.ts';
import { CudaTransport } from './cuda-transport.ts';
import { allocateDeviceMemory } from './device-memory.ts';
import { loadCudaDriver } from './koffi-driver.ts';
import { CudaRuntime } from './runtime.ts';

// The FFI binding over a libcuda.so.1 whose GPU is host memory (host-cuda.c): symbols, argument orders, structs by value, handles above 2^32.

const folder = mkdtempSync(path.join(os.tmpdir(), 'armature-cuda-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function compile(): string | undefined {
  const file = path.join(folder, 'libcuda.so.1');
  const source = fileURLToPath(new URL('./host-cuda.c', import.meta.url));
  const { status } = spawnSync('cc', ['-std=gnu11', '-shared', '-fPIC', '-O1', '-o', file, source], { stdio: 'inherit' });
  return status === 0 ? file : undefined;
}

const file = process.platform === 'linux' ? compile() : undefined;

describe.skipIf(file === undefined)(`the FFI binding${file === undefined ? ' (skipped: no C compiler here)' : ''}`, () => {
  const driver = () => {
    const loaded = loadCudaDriver(file!);
    if (typeof loaded === 'string') throw new Error(loaded);
    return loaded;
  };

  test('says what is there', () => {
    const it = driver();
    expect([it.version, it.hasBatch, it.deviceCount(), it.deviceName(0)]).toEqual([12_080, true, 1, 'host memory (no GPU)']);
    expect([...it.deviceUuid(0)]).toEqual(Array.from({ length: 16 }, (_, i) => i + 1));
    expect(it.errorName(1)).toBe('CUDA_ERROR_INVALID_VALUE');
    expect(() => it.deviceName(3)).toThrow(/cuDeviceGet ended with CUDA_ERROR_INVALID_VALUE \(1\)/);
  });

  test('passes the handle struct by value, whole', () => {
    const runtime = new CudaRuntime(driver());
    const memory = allocateDeviceMemory({ ordinal: 0, lengthBytes: 10_000 }, runtime);
    const { handle, offsetBytes, uuid } = memory.exportHandle();
    expect([handle.length, offsetBytes, uuid]).toEqual([128, 0, '0102030405060708090a0b0c0d0e0f10']);
    // The library refuses a torn handle with 1, its own process with 201.
    expect(() => runtime.import(0, Buffer.from(handle, 'hex'))).toThrow(/\(201\)/);
    const torn = Buffer.from(handle, 'hex');
    torn[63]! ^= 1;
    expect(() => runtime.import(0, torn)).toThrow(/\(1\)/);
    expect(() => memory.write(0, new Uint8Array(10_001))).toThrow(/bytes 0 to 10001/);
    memory.close();
    expect(Object.values(runtime.held()).every((count) => count === 0)).toBe(true);
  });

  test.each(['byte equality', 'batches of 4,096', 'cancelled read'])('keeps the rule of the suite: %s', async (rule) => {
    let runtime: CudaRuntime;
    let count = 0;
    const rules = transferTransportRules({
      create: () => {
        runtime = new CudaRuntime(driver());
        return new CudaTransport({ clock: realClock, log: recordingLogger(), runtime });
      },
      allocate: (side, lengthBytes) => {
        if (side === 'initiator' && ++count % 2 > 0) return { kind: 'dram', bytes: new Uint8Array(new ArrayBuffer(lengthBytes)) };
        const memory = allocateDeviceMemory({ ordinal: 0, lengthBytes }, runtime);
        const load = (): Uint8Array => {
          const bytes = new Uint8Array(lengthBytes);
          memory.read(0, bytes);
          return bytes;
        };
        return { kind: 'device', bytes: new Uint8Array(0), location: memory.location(), load, store: (bytes) => memory.write(0, bytes), release: () => memory.close() };
      },
    });
    await rules.find(({ name }) => name.includes(rule))!.run();
    expect(Object.values(runtime!.held()).every((held) => held === 0)).toBe(true);
  });
});
