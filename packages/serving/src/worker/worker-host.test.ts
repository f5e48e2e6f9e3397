import type { Discovery, EngineBackend, EventPlane, Health, PlaneMessage, PlaneStream, RequestPlane, StreamHandler, WorkerRole } from '@armature/contracts';
import { ManualClock } from '@armature/contracts/testing/manual-clock';
import { describe, expect, it } from 'vitest';
import { Method } from '../messages.ts';
import { CountingMetrics, silentLog } from '../test-support/fakes.ts';
import type { KvMover } from './kv-mover.ts';
import { WorkerHost } from './worker-host.ts';

/** A prefill worker whose engine lends blocks, and the order in which its parts go. */
async function build({ isAlone = false } = {}) {
  const clock = new ManualClock();
  const said: string[] = [];
  const lent = { leases: 0, reservations: 0, quarantined: 0 };
  const engine = {
    abilities: { roles: ['prefill'], roleChange: 'restart', kvEvents: false },
    info: { blockSize: 16, totalBlocks: 8, maxModelTokens: 64 },
    failure: () => undefined,
    onKvEvent: () => undefined,
    load: () => ({}),
    kv: { arena: () => ({ layoutFingerprint: 'l' }), counts: () => lent, releaseLease: () => (lent.leases-- > 0 ? 'valid' : 'expired') },
  } as unknown as EngineBackend;
  let open: StreamHandler | undefined;
  const requests = {
    supports: { processes: !isAlone },
    serve: async (_name: string, handler: StreamHandler) => {
      open = handler;
      return { address: 'here', close: async () => void said.push('endpoint') };
    },
  } as unknown as RequestPlane;
  const host = new WorkerHost({
    model: 'm', pool: 'p', index: 0, dpRank: 0, role: 'prefill' as WorkerRole, engineName: 'e', engine, hardware: 'h', costPerHour: 1, taints: [], blockSize: 16, transferTimeoutMs: 1_000,
    incarnation: '1', nextIncarnation: () => '2', requests, clock, log: silentLog, metrics: new CountingMetrics(),
    discovery: { register: async () => ({ update: async () => undefined, close: async () => void said.push('discovery') }) } as unknown as Discovery,
    events: { supports: { processes: false }, publish: () => undefined } as unknown as EventPlane,
    health: { set: () => undefined, remove: () => undefined } as unknown as Health,
  });
  const mover = { metadata: () => ({}), transports: () => [], close: async () => void said.push('mover') } as unknown as KvMover;
  await host.start({ mover, manager: undefined, fetchDeadlineMs: 0 });
  const call = (method: string, message: PlaneMessage): PlaneMessage[] => {
    const answers: PlaneMessage[] = [];
    const stream = { send: (one: PlaneMessage) => answers.push(one) > 0, close: () => undefined } as unknown as PlaneStream;
    open?.({ method, message } as never, stream);
    return answers;
  };
  return { clock, said, lent, host, call };
}

describe('a worker that is told to end', () => {
  it('leaves discovery at once, and stays for those who have not heard of it', async () => {
    const t = await build();
    void t.host.close(10_000);
    await t.clock.elapse(290);
    expect(t.said).toEqual(['discovery']);
    expect(() => t.call(Method.Generate, { type: 'generate' })).toThrow(/draining/);
    await t.clock.elapse(20);
    expect(t.said).toEqual(['discovery', 'endpoint', 'mover']);
  });

  it('stays until its blocks have been read: a prefill leg ends long before', async () => {
    const t = await build();
    t.lent.leases = 1;
    void t.host.close(10_000);
    await t.clock.elapse(3_000);
    expect(t.said).toEqual(['discovery']);
    expect(t.call(Method.ReleaseLease, { type: 'lease', lease: 7 })).toEqual([{ type: 'lease', valid: true }]);
    await t.clock.elapse(30);
    expect(t.said).toEqual(['discovery', 'endpoint', 'mover']);
  });

  it('does not stay longer than it may, whoever forgot a lease', async () => {
    const t = await build();
    t.lent.leases = 1;
    void t.host.close(500);
    await t.clock.elapse(490);
    expect(t.said).toEqual(['discovery']);
    await t.clock.elapse(30);
    expect(t.said).toEqual(['discovery', 'endpoint', 'mover']);
  });

  it('goes at once where nobody can be late: within one process, or told not to wait', async () => {
    for (const [options, deadlineMs] of [[{ isAlone: true }, 10_000], [{}, 0]] as const) {
      const t = await build(options);
      await t.host.close(deadlineMs);
      expect(t.said).toEqual(['discovery', 'endpoint', 'mover']);
    }
  });
});
