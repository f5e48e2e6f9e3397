import { describe, expect, it, test } from 'vitest';
import { TransferStatus } from '@armature/contracts';
import type { DescriptorColumns, TransferPlan, TransferTransport, TransportEndpoint, TransportHost } from '@armature/contracts';
import { transferTransportContract, transferTransportRules } from '@armature/contracts/testing/transfer-transport';
import { MemoryTransport } from './memory-transport.ts';
import { TcpTransport } from './tcp/tcp-transport.ts';
import { realClock, recordingLogger } from './test-clock.test.support.ts';

const memory = (): MemoryTransport => new MemoryTransport({ clock: realClock });
const deferred = (): MemoryTransport => new MemoryTransport({ clock: realClock, completion: 'deferred', delayMs: (bytes) => bytes / 8e6 });
const tcp = (): TcpTransport => new TcpTransport({ clock: realClock, log: recordingLogger(), token: 'secret', streams: 3, splitBytes: 1 << 20 });

describe('memory', () => transferTransportContract({ runner: { describe, it }, create: memory }));
describe('memory, deferred', () => transferTransportContract({ runner: { describe, it }, create: deferred }));
describe('tcp', () => transferTransportContract({ runner: { describe, it }, create: tcp }));
describe('tcp, one stream', () => transferTransportContract({ runner: { describe, it }, seed: 77, create: () => new TcpTransport({ clock: realClock, log: recordingLogger(), streams: 1 }) }));

type Done = (status: TransferStatus) => void;
interface Faults {
  post?(endpoint: TransportEndpoint, plan: TransferPlan, notification: Uint8Array | undefined, done: Done): number;
  cancel?(endpoint: TransportEndpoint, token: number): void;
}

/** A memory transport broken in one place. */
function mutant(faults: () => Faults, base: () => MemoryTransport = memory): () => TransferTransport {
  return () => {
    const inner = base();
    const open = async (host: TransportHost): Promise<TransportEndpoint> => {
      const endpoint = await inner.open(host);
      const { post, cancel } = faults();
      const changed: Partial<TransportEndpoint> = bound(endpoint);
      if (post !== undefined) changed.post = (plan, notification, done) => post(endpoint, plan, notification, done);
      if (cancel !== undefined) changed.cancel = (token) => cancel(endpoint, token);
      return changed as TransportEndpoint;
    };
    return { name: inner.name, supports: inner.supports, unavailable: () => undefined, open };
  };
}

function bound(endpoint: TransportEndpoint): Partial<TransportEndpoint> {
  const names = ['metadata', 'canReach', 'connect', 'disconnect', 'estimateMicros', 'post', 'cancel', 'notify', 'close'] as const;
  return Object.fromEntries(names.map((name) => [name, (endpoint[name] as (...rest: unknown[]) => unknown).bind(endpoint)]));
}

/** Remembers what it could end, and ends it without asking anybody. */
function endsAtOnce(): Faults {
  const ends = new Map<number, () => void>();
  return {
    post: (endpoint, plan, notification, done) => {
      let hasEnded = false;
      const end = (status: TransferStatus): void => {
        if (!hasEnded) done(status);
        hasEnded = true;
      };
      const token = endpoint.post(plan, notification, end);
      ends.set(token, () => end(TransferStatus.Canceled));
      return token;
    },
    cancel: (_endpoint, token) => ends.get(token)?.(),
  };
}

/** Names of the rules that a mutant breaks, of all or of those with `only` in their name. */
async function broken(create: () => TransferTransport, only = ''): Promise<string[]> {
  const failed: string[] = [];
  for (const rule of transferTransportRules({ create }).filter(({ name }) => name.includes(only))) {
    try {
      await rule.run();
    } catch {
      failed.push(rule.name);
    }
  }
  return failed;
}

describe('mutants fail their rule', () => {
  const EQUALITY = 'behaviour: byte equality over random layouts';
  const NOTIFY = 'behaviour: notification after the data';

  test('none: the wrapper itself passes', async () => {
    expect(await broken(mutant(() => ({})))).toEqual([]);
    expect(await broken(mutant(() => ({}), deferred))).toEqual([]);
  });
  test('Canceled while bytes still land: the destination would be reused too early', async () => {
    const found = await broken(mutant(endsAtOnce, deferred), 'cancelled');
    expect(found).toContain('failure: no local byte changes after a cancelled read has ended');
    expect(found).toContain('failure: no remote byte changes after a cancelled write has ended');
  });
  test('Done before the bytes are here', async () => {
    const early: Faults = {
      post: (endpoint, plan, notification, done) => {
        const token = endpoint.post(plan, notification, () => undefined);
        done(TransferStatus.Done);
        return token;
      },
    };
    expect(await broken(mutant(() => early, deferred), EQUALITY)).toEqual([EQUALITY]);
  });
  test('notification before the data', async () => {
    const create = mutant(() => ({
      post: (endpoint, plan, notification, done) => {
        if (notification !== undefined) endpoint.notify(plan.peer, notification);
        return endpoint.post(plan, undefined, done);
      },
    }));
    expect(await broken(create, NOTIFY)).toEqual([NOTIFY]);
  });
  test('done twice', async () => {
    const create = mutant(() => ({
      post: (endpoint, plan, notification, done) =>
        endpoint.post(plan, notification, (status) => {
          done(status);
          done(status);
        }),
    }));
    expect(await broken(create, EQUALITY)).toEqual([EQUALITY]);
  });
  test('drops rows beyond the first 1,024', async () => {
    const head = (columns: DescriptorColumns): DescriptorColumns => ({ ...columns, count: Math.min(columns.count, 1024) });
    const create = mutant(() => ({ post: (endpoint, plan, notification, done) => endpoint.post({ ...plan, local: head(plan.local), remote: head(plan.remote) }, notification, done) }));
    expect(await broken(create)).toEqual(['behaviour: batches of 4,096 descriptors, one plan posted again']);
  });
  test('moves what it may before it meets what it may not', async () => {
    const create = mutant(() => ({
      post: (endpoint, plan, notification, done) => {
        const one = { op: plan.op, peer: plan.peer, bytes: plan.local.lengths[0] ?? 0 };
        const first = (columns: DescriptorColumns): DescriptorColumns => ({ ...columns, count: Math.min(columns.count, 1) });
        endpoint.post({ ...one, local: first(plan.local), remote: first(plan.remote) }, undefined, () => undefined);
        return endpoint.post(plan, notification, done);
      },
    }));
    expect(await broken(create, 'refused')).toContain('failure: descriptors outside, unknown or not granted are refused');
  });
  test('one byte too many', async () => {
    const inner = (): TransferTransport =>
      new MemoryTransport({
        clock: realClock,
        tap: (bytes) => {
          if (bytes.byteOffset + bytes.length < bytes.buffer.byteLength) new Uint8Array(bytes.buffer, bytes.byteOffset + bytes.length, 1).fill(0);
        },
      });
    expect(await broken(inner, EQUALITY)).toEqual([EQUALITY]);
  });
  test('one flipped byte', async () => {
    let pieces = 0;
    const flip = (bytes: Uint8Array): void => {
      if (bytes.length > 0 && ++pieces % 50 === 0) bytes[bytes.length >> 1]! ^= 1;
    };
    expect(await broken(() => new MemoryTransport({ clock: realClock, tap: flip }), EQUALITY)).toEqual([EQUALITY]);
  });
});
