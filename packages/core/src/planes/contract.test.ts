import type { Discovery, EventPlane, RequestPlane, StreamSink } from '@armature/contracts';
import { discoveryContract, discoveryRules } from '@armature/contracts/testing/discovery';
import { eventPlaneContract, eventPlaneRules } from '@armature/contracts/testing/event-plane';
import { requestPlaneContract, requestPlaneRules } from '@armature/contracts/testing/request-plane';
import type { ContractRule } from '@armature/contracts/testing/runner';
import { describe, expect, it } from 'vitest';
import { PinoLogger } from '../leaves/logger.ts';
import { MsgpackCodec } from '../leaves/msgpack-codec.ts';
import { SystemClock } from '../leaves/system-clock.ts';
import { VirtualClock } from '../leaves/virtual-clock.ts';
import { MemoryDiscovery } from './memory-discovery.ts';
import type { MemoryPlaneOptions } from './memory-discovery.ts';
import { MemoryEventPlane } from './memory-events.ts';
import { MemoryRequestPlane } from './memory-requests.ts';

const base = (encode = true, clock: MemoryPlaneOptions['clock'] = new SystemClock()): MemoryPlaneOptions => ({ encode, clock, codec: new MsgpackCodec(), log: new PinoLogger({ level: 'silent' }) });
const discovery = (encode = true): MemoryDiscovery => new MemoryDiscovery(base(encode));
const events = (encode = true, bufferEvents = 65_536): MemoryEventPlane => new MemoryEventPlane({ ...base(encode), bufferEvents });
const requests = (encode = true, clock?: VirtualClock): MemoryRequestPlane => new MemoryRequestPlane({ ...base(encode, clock), highWaterMessages: 512, maxBufferedMessages: 4096 });

const shares = 'without the codec round trip both sides share memory, as documented';
for (const encode of [true, false]) {
  describe(`memory planes, encode ${encode}`, () => {
    const skip = (rule: string): { rule: string; reason: string }[] => (encode ? [] : [{ rule, reason: shares }]);
    discoveryContract({ runner: { describe, it }, create: () => discovery(encode), skip: skip('values: what a watcher does to its copy is seen by nobody else') });
    eventPlaneContract({
      runner: { describe, it },
      create: () => events(encode),
      createBounded: (buffer) => events(encode, buffer),
      skip: skip('payload: what a subscriber does to its copy is seen by nobody else'),
    });
    requestPlaneContract({ runner: { describe, it }, create: () => requests(encode), skip: skip('messages: what the sender does to its columns afterwards is not seen') });
  });
}

describe('memory request plane under virtual time', () => {
  let clock = new VirtualClock();
  requestPlaneContract({
    runner: { describe, it },
    create: () => requests(true, (clock = new VirtualClock())),
    passTime: async (ms) => void (await clock.advance(ms)),
  });
});

describe('memory discovery', () => {
  it('forgets an owner that stopped renewing when its time to live has passed', async () => {
    const clock = new VirtualClock();
    const plane = new MemoryDiscovery(base(true, clock));
    const removed: string[] = [];
    await plane.watch('w/', { put: () => undefined, removed: (key) => void removed.push(`${key} at ${clock.nowMs()}`) });
    await plane.register('w/a', 1, { ttlMs: 500 });
    plane.lapse('w/a');
    await clock.advance(499);
    expect(removed).toEqual([]);
    await clock.advance(1);
    expect(removed).toEqual(['w/a at 500']);
  });
});

const pace = { waitMs: 60, quietMs: 2 };

/** Names of the rules that an implementation breaks. */
async function broken(rules: readonly ContractRule[]): Promise<string[]> {
  const names: string[] = [];
  for (const rule of rules) {
    try {
      await rule.run();
    } catch {
      names.push(rule.name);
    }
  }
  return names;
}

/** A plane with some methods replaced; the rest stays the real one. */
function mutate<T extends object>(real: T, changes: Partial<T>): T {
  return new Proxy(real, {
    get: (target, key) => {
      const value = (changes as Record<PropertyKey, unknown>)[key] ?? (target as Record<PropertyKey, unknown>)[key];
      return typeof value === 'function' ? (value as (...args: unknown[]) => unknown).bind(target) : value;
    },
  });
}

describe('the suites find broken planes', () => {
  const discoveries: [string, () => Discovery, string[]][] = [
    ['the real one', () => discovery(), []],
    [
      'forgets to tell removals',
      () => {
        const real = discovery();
        return mutate<Discovery>(real, { watch: (prefix, watcher) => real.watch(prefix, { put: (entry) => watcher.put(entry), removed: () => undefined, synced: () => watcher.synced?.() }) });
      },
      [
        'watch: later changes arrive in order',
        'watch: one that throws does not harm the others',
        'register: close is idempotent, and removed is told once',
        'order: watchers that come at any time end with what is registered (random changes)',
      ],
    ],
    [
      'lets the close of an old owner remove the new one',
      () => {
        const real = discovery();
        const current = new Map<string, { close(): Promise<void> }>();
        return mutate<Discovery>(real, {
          register: async (key, value) => {
            const registration = await real.register(key, value);
            current.set(key, registration);
            return { update: (next) => registration.update(next), close: async () => current.get(key)?.close() };
          },
        });
      },
      ['register: the close of an old owner does not touch a new one'],
    ],
    [
      'says synced before the snapshot',
      () => {
        const real = discovery();
        return mutate<Discovery>(real, {
          watch: (prefix, watcher) => {
            watcher.synced?.();
            return real.watch(prefix, { put: (entry) => watcher.put(entry), removed: (key) => watcher.removed(key) });
          },
        });
      },
      ['watch: the snapshot, then synced once, then the promise', 'register: the close of an old owner does not touch a new one'],
    ],
  ];
  it.each(discoveries)('discovery: %s', async (_name, create, expected) => {
    expect(await broken(discoveryRules({ create, pace }))).toEqual(expected);
  });

  const eventPlanes: [string, () => EventPlane, string[]][] = [
    ['the real one', () => events(), []],
    [
      'loses each hundredth event',
      () => {
        const real = events();
        let count = 0;
        return mutate<EventPlane>(real, { publish: (subject, payload) => void (++count % 100 !== 0 && real.publish(subject, payload)) });
      },
      ['delivery: in order, each once', 'delivery: order per subject over many subjects (random)'],
    ],
    [
      'still calls closed subscriptions',
      () => {
        const real = events();
        return mutate<EventPlane>(real, {
          subscribe: (prefix, listener) => {
            real.subscribe(prefix, listener);
            return { close: () => undefined };
          },
        });
      },
      ['subscribe: a closed subscription is not called again', 're-entry: a subscription closed inside its own listener ends there'],
    ],
    [
      'delivers inside publish, recursively',
      () => {
        const listeners = new Set<[string, (subject: string, payload: never) => void]>();
        return {
          supports: { processes: false },
          publish: (subject, payload) => {
            for (const [prefix, listener] of listeners) {
              try {
                if (subject.startsWith(prefix)) listener(subject, structuredClone(payload) as never);
              } catch {
                // as the real one
              }
            }
          },
          subscribe: (prefix, listener) => {
            const entry: [string, typeof listener] = [prefix, listener];
            listeners.add(entry);
            return { close: () => void listeners.delete(entry) };
          },
          close: () => listeners.clear(),
        };
      },
      ['re-entry: an event published inside a listener follows the running one, for every subscriber'],
    ],
  ];
  it.each(eventPlanes)('event plane: %s', async (_name, create, expected) => {
    expect(await broken(eventPlaneRules({ create, pace }))).toEqual(expected);
  });

  const wrapSink = (change: (sink: StreamSink) => StreamSink) => (): RequestPlane => {
    const real = requests();
    return mutate<RequestPlane>(real, { open: (address, open, sink) => real.open(address, open, change(sink)) });
  };
  const requestPlanes: [string, () => RequestPlane, string[]][] = [
    ['the real one', () => requests(), []],
    [
      'closes twice',
      wrapSink((sink) => ({
        message: (message) => sink.message(message),
        closed: (error) => {
          sink.closed(error);
          sink.closed(error);
        },
      })),
      [
        'open: a handler that refuses gives its own code to the caller',
        'messages: a sink that throws ends its own stream only',
        'close: both ends are told once, after the last message',
        'close: an error of the serving side arrives with code, hint and retryable',
        'deadline: a stream that ended in time is not closed again',
        'bounds: a sender that heeds nothing is told first, then its stream fails',
        'lifecycle: close ends every stream once and is idempotent; later opens are refused by closed',
      ],
    ],
    [
      'has no deadline',
      () => {
        const real = requests();
        return mutate<RequestPlane>(real, { open: (address, open, sink) => real.open(address, { ...open, deadlineMs: 60_000 }, sink) });
      },
      ['deadline: a stream that used up its budget is closed at both ends'],
    ],
    [
      'swallows the cancel of the caller',
      () => {
        const real = requests();
        return mutate<RequestPlane>(real, {
          open: (address, open, sink) => {
            const stream = real.open(address, open, sink);
            return { send: (message) => stream.send(message), close: (error) => void (error === undefined && stream.close()) };
          },
        });
      },
      ['close: a cancel of the caller reaches the serving side'],
    ],
    [
      'calls back inside open',
      () => {
        const real = requests();
        return mutate<RequestPlane>(real, {
          open: (address, open, sink) => {
            const stream = real.open(address, open, sink);
            real.queue.drain();
            return stream;
          },
        });
      },
      ['open: nothing is called back inside open or send'],
    ],
    [
      'delivers the newest message first',
      () => {
        const real = requests();
        return mutate<RequestPlane>(real, {
          open: (address, open, sink) => {
            const stream = real.open(address, open, sink);
            let held: Parameters<typeof stream.send>[0] | undefined;
            return {
              close: (error) => {
                if (held !== undefined) stream.send(held);
                stream.close(error);
              },
              send: (message) => {
                if (held === undefined && message['i'] === 1) {
                  held = message;
                  return true;
                }
                const isAccepted = stream.send(message);
                if (held !== undefined) stream.send(held);
                held = undefined;
                return isAccepted;
              },
            };
          },
        });
      },
      ['messages: order is kept both ways, none is lost', 'messages: one sent inside a callback does not overtake', 'messages: many streams do not mix (random)'],
    ],
  ];
  it.each(requestPlanes)('request plane: %s', async (_name, create, expected) => {
    expect(await broken(requestPlaneRules({ create, pace }))).toEqual(expected);
  }, 60_000);
});
