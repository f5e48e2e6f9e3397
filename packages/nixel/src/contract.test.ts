import { describe, expect, it, test } from 'vitest';
import type { TransferPlan, TransferStatus, TransferTransport, TransportEndpoint, TransportHost } from '@armature/contracts';
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

type Post = (endpoint: TransportEndpoint, plan: TransferPlan, notification: Uint8Array | undefined, done: (status: TransferStatus) => void) => number;

/** A memory transport broken in one place. */
function mutant(post: Post): () => TransferTransport {
  return () => {
    const inner = memory();
    const open = async (host: TransportHost): Promise<TransportEndpoint> => {
      const endpoint = await inner.open(host);
      return Object.assign(Object.create(endpoint) as TransportEndpoint, bound(endpoint), {
        post: (plan: TransferPlan, notification: Uint8Array | undefined, done: (status: TransferStatus) => void) => post(endpoint, plan, notification, done),
      });
    };
    return { name: inner.name, supports: inner.supports, unavailable: () => undefined, open };
  };
}

function bound(endpoint: TransportEndpoint): Partial<TransportEndpoint> {
  const names = ['metadata', 'canReach', 'connect', 'disconnect', 'estimateMicros', 'cancel', 'notify', 'close'] as const;
  return Object.fromEntries(names.map((name) => [name, (endpoint[name] as (...rest: unknown[]) => unknown).bind(endpoint)]));
}

async function broken(create: () => TransferTransport): Promise<string[]> {
  const failed: string[] = [];
  for (const rule of transferTransportRules({ create })) {
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
    expect(await broken(mutant((endpoint, ...rest) => endpoint.post(...rest)))).toEqual([]);
  });
  test('notification before the data', async () => {
    const create = mutant((endpoint, plan, notification, done) => {
      if (notification !== undefined) endpoint.notify(plan.peer, notification);
      return endpoint.post(plan, undefined, done);
    });
    expect(await broken(create)).toContain(NOTIFY);
  });
  test('done twice', async () => {
    const create = mutant((endpoint, plan, notification, done) =>
      endpoint.post(plan, notification, (status) => {
        done(status);
        done(status);
      }),
    );
    expect(await broken(create)).toContain(EQUALITY);
  });
  test('one byte too many', async () => {
    const inner = (): TransferTransport =>
      new MemoryTransport({
        clock: realClock,
        tap: (bytes) => {
          if (bytes.byteOffset + bytes.length < bytes.buffer.byteLength) new Uint8Array(bytes.buffer, bytes.byteOffset + bytes.length, 1).fill(0);
        },
      });
    expect(await broken(inner)).toContain(EQUALITY);
  });
  test('one flipped byte', async () => {
    let pieces = 0;
    const flip = (bytes: Uint8Array): void => {
      if (bytes.length > 0 && ++pieces % 50 === 0) bytes[bytes.length >> 1]! ^= 1;
    };
    expect(await broken(() => new MemoryTransport({ clock: realClock, tap: flip }))).toContain(EQUALITY);
  });
});
