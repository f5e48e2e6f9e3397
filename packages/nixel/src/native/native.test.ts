import { spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync, readlinkSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { describe, expect, it } from 'vitest';
import { ptraceForbidden } from '../cma/permission.ts';
import { held } from '../local/peer-process.test.support.ts';
import { createSharedMemory } from '../shm/shared-memory.ts';
import { libc, libcMissing, MemfdFlag } from './libc.ts';
import { mapPeerMemory, mappingsAlive } from './mapping.ts';
import { parseStartTicks, PinnedProcess, startTicks } from './process.ts';

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

async function collect(): Promise<void> {
  setFlagsFromString('--expose_gc');
  const gc = runInNewContext('gc') as () => void;
  for (let i = 0; i < 4; i++) {
    gc();
    await pause(10);
  }
}

/** Size of the address space. */
function addressPages(): number {
  return Number(readFileSync('/proc/self/statm', 'latin1').split(' ')[0]);
}

describe('what the kernel says', () => {
  it('start ticks: field 22, whatever the command is called', () => {
    const rest = `S 1 ${'0 '.repeat(17)}4711 0 0`;
    expect(parseStartTicks(`12 (node) ${rest}`)).toBe(4711);
    expect(parseStartTicks(`12 (a) b) (c 1 2 3) ${rest}`)).toBe(4711);
    expect(parseStartTicks('12 (node) S 1')).toBeUndefined();
    expect(parseStartTicks('')).toBeUndefined();
  });

  it('yama and capabilities', () => {
    const plain = 'Name:\tnode\nCapEff:\t0000000000000000\n';
    const capable = 'CapEff:\t0000000000080000\n';
    expect(ptraceForbidden({ scope: undefined, status: plain })).toBeUndefined();
    expect(ptraceForbidden({ scope: '0\n', status: plain })).toBeUndefined();
    expect(ptraceForbidden({ scope: '1\n', status: plain })).toContain('ptrace_scope is 1');
    expect(ptraceForbidden({ scope: '2', status: plain })).toContain('CAP_SYS_PTRACE');
    expect(ptraceForbidden({ scope: '2', status: capable })).toBeUndefined();
    expect(ptraceForbidden({ scope: '3', status: capable })).toContain('ptrace_scope is 3');
  });
});

const reason = libcMissing();
if (reason !== undefined) it.skip(`native memory is not available here: ${reason}`, () => undefined);
else {
  describe('a pinned process', () => {
    it('is the one meant, until it is reaped', async () => {
      const child = spawn(process.execPath, ['-e', 'setTimeout(() => {}, 60000)']);
      await new Promise((resolve) => child.once('spawn', resolve));
      const ticks = startTicks(child.pid!)!;
      expect(PinnedProcess.open(child.pid!, ticks + 1)).toBeUndefined();
      const pinned = PinnedProcess.open(child.pid!, ticks)!;
      expect(pinned.exists()).toBe(true);
      child.kill('SIGKILL');
      await new Promise((resolve) => child.once('exit', resolve));
      expect(pinned.exists()).toBe(false);
      expect(PinnedProcess.open(child.pid!, ticks)).toBeUndefined();
      pinned.close();
      pinned.close();
      expect(pinned.exists()).toBe(false);
    });
  });

  describe('shared memory', () => {
    it('is one memory for all who map it', () => {
      const memory = createSharedMemory({ name: 'test', lengthBytes: 10_000 });
      const other = mapPeerMemory(process.pid, memory.fd, 10_000, true);
      new Uint8Array(memory.buffer)[9999] = 7;
      expect(new Uint8Array(other.buffer)[9999]).toBe(7);
      new Uint8Array(other.buffer)[0] = 9;
      expect(new Uint8Array(memory.buffer)[0]).toBe(9);
      const mapping = memory.location(64);
      expect(mapping.type === 'shared' && mapping.mapping).toMatchObject({ pid: process.pid, fd: memory.fd, offsetBytes: 64, address: memory.address + 64n });
      expect(Number(memory.address)).toBe(libc().addressOf(new Uint8Array(memory.buffer)));
      other.release();
      memory.close();
    });

    it('of peer access read cannot be mapped for writing, nor reopened for it', () => {
      const memory = createSharedMemory({ name: 'test', lengthBytes: 4096, peerAccess: 'read' });
      new Uint8Array(memory.buffer)[0] = 5;
      const reader = mapPeerMemory(process.pid, memory.fd, 4096, false);
      expect(new Uint8Array(reader.buffer)[0]).toBe(5);
      expect(() => mapPeerMemory(process.pid, memory.fd, 4096, true)).toThrow(expect.objectContaining({ code: 'TRANSFER_MAPPING_FAILED' }) as Error);
      reader.release();
      memory.close();
    });

    it('that its owner could cut off is not mapped', () => {
      const fd = libc().memfdCreate('unsealed', MemfdFlag.CloseOnExec | MemfdFlag.AllowSealing);
      libc().ftruncate(fd, 4096);
      expect(() => mapPeerMemory(process.pid, fd, 4096, false)).toThrow(/sealed/);
      closeSync(fd);
      const memory = createSharedMemory({ name: 'test', lengthBytes: 4096 });
      expect(libc().ftruncate(memory.fd, 0)).toBe(-1);
      expect(() => mapPeerMemory(process.pid, memory.fd, 8192, false)).toThrow(/8192/);
      memory.close();
      const file = openSync(new URL(import.meta.url), 'r');
      expect(() => mapPeerMemory(process.pid, file, 1, false)).toThrow(/sealed/);
      closeSync(file);
      expect(() => createSharedMemory({ name: 'test', lengthBytes: 0 })).toThrow(expect.objectContaining({ code: 'TRANSFER_MAPPING_FAILED' }) as Error);
    });

    it('may be closed while views are in use: they see empty pages, others keep theirs', () => {
      const memory = createSharedMemory({ name: 'test', lengthBytes: 1 << 20 });
      const other = mapPeerMemory(process.pid, memory.fd, 1 << 20, false);
      const view = new Uint8Array(memory.buffer).fill(3);
      memory.close();
      memory.close();
      expect(memory.isClosed).toBe(true);
      expect(view[77]).toBe(0);
      view.fill(4);
      expect(view[77]).toBe(4);
      expect(new Uint8Array(other.buffer)[77]).toBe(3);
      other.release();
    });

    it('1,000 opened and closed leave no descriptor and no mapping', async () => {
      const cycle = (times: number): void => {
        for (let i = 0; i < times; i++) {
          const memory = createSharedMemory({ name: `cycle-${i}`, lengthBytes: 4 << 20 });
          const other = mapPeerMemory(process.pid, memory.fd, 4 << 20, false);
          expect(new Uint8Array(other.buffer)[i]).toBe(0);
          other.release();
          memory.close();
        }
      };
      cycle(10);
      await collect();
      const before = { ...held(), alive: mappingsAlive(), pages: addressPages() };
      cycle(1000);
      expect(held().fds).toBeLessThanOrEqual(before.fds + 2);
      expect(mappingsAlive()).toBeGreaterThan(before.alive);
      await collect();
      expect(mappingsAlive()).toBeLessThanOrEqual(before.alive + 4);
      // The garbage collector maps and unmaps too; 2,000 were made here.
      expect(held().maps).toBeLessThanOrEqual(before.maps + 200);
      // 8 GB of addresses were used.
      expect((addressPages() - before.pages) * 4096).toBeLessThan(1e9);
      expect(readFileSync('/proc/self/maps', 'latin1')).not.toContain('memfd:cycle');
      expect(readlinkSync('/proc/self/fd/0')).not.toContain('memfd:cycle');
    });
  });
}
