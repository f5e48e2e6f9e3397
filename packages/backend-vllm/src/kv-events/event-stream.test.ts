import { afterEach, describe, expect, test } from 'vitest';
import { Dealer, Publisher, Router } from 'zeromq';
import type { KvEvent } from '@armature/contracts';
import { ManualClock } from '@armature/contracts/testing/manual-clock';
import { realClock } from '@armature/contracts/testing/real-clock';
import { noSalt, sequenceHashes } from '@armature/tokens';
import { batch, removed, stored } from './encode.test.support.ts';
import { EngineBlocks } from './engine-blocks.ts';
import { EventStream } from './event-stream.ts';
import { KvEvents } from './kv-events.ts';

const log = { debug() {}, info() {}, warn() {}, error() {}, child: () => log, isEnabled: () => false };
const root = (n: number): object => stored([BigInt(n)], null, [n, n, n, n]);

/** An engine: what it sent, what it still remembers, what was asked of it. */
function engine(canReplay = true) {
  const clock = new ManualClock();
  const events: KvEvent[] = [];
  const asked: number[] = [];
  const blocks = new EngineBlocks(4, (event) => events.push(event));
  const stream = new EventStream({ blocks, requestReplay: canReplay ? (from) => asked.push(from) : undefined, replayTimeoutMs: 100, clock, log });
  const replay = (messages: readonly (readonly [number, Buffer])[]): void => {
    for (const [sequence, payload] of messages) stream.replayed(sequence, payload);
    stream.replayEnded();
  };
  return { clock, events, asked, blocks, stream, replay };
}

describe('the order of messages', () => {
  test('at the start all that the engine remembers is read, and what came meanwhile follows once', () => {
    const { stream, asked, replay, blocks } = engine();
    stream.resync('start');
    stream.receive(1, batch(1, root(2)));
    stream.receive(2, batch(2, root(3)));
    expect([asked, blocks.heldBlocks]).toEqual([[0], 0]);
    replay([[0, batch(0, root(1))], [1, batch(1, root(2))]]);
    expect([blocks.heldBlocks, stream.isWhole, stream.counts.duplicates, blocks.counts.storedBlocks]).toEqual([3, true, 1, 3]);
  });

  test('what came during a replay is forgotten when it begins anew: it may be of the life before', () => {
    const { stream, replay, blocks } = engine();
    stream.resync('connected');
    stream.receive(5_000, batch(100, root(7)));
    stream.resync('connected');
    replay([[0, batch(200, root(8))]]);
    const told = blocks.snapshot().flatMap((event) => (event.type === 'stored' ? [...event.sequenceHashes] : []));
    expect(told).toEqual([...sequenceHashes(Int32Array.of(8, 8, 8, 8), 4, 4, noSalt)]);
  });

  test('a gap is asked for and filled, in order', () => {
    const { stream, asked, replay, blocks } = engine();
    stream.resync('start');
    replay([[0, batch(0, root(1))]]);
    stream.receive(3, batch(3, removed([2n])));
    replay([[1, batch(1, root(2))], [2, batch(2, root(3))]]);
    expect(asked).toEqual([0, 1]);
    expect([blocks.heldBlocks, blocks.counts.unknownRemovals, stream.counts.gaps, stream.counts.missedMessages, stream.isWhole]).toEqual([2, 0, 1, 2, true]);
  });

  test.each([['the engine has forgotten it', true], ['there is no replay', false]])('a gap that stays drops what is known: %s', (_why, canReplay) => {
    const { stream, replay, blocks, events } = engine(canReplay);
    stream.resync('start');
    if (canReplay) replay([[0, batch(0, root(1))]]);
    else stream.receive(0, batch(0, root(1)));
    stream.receive(5, batch(5, root(6)));
    if (canReplay) replay([]);
    expect(events.map(({ type }) => type)).toEqual(['stored', 'cleared', 'stored']);
    expect([blocks.heldBlocks, stream.isWhole]).toEqual([1, false]);
    stream.receive(6, batch(6, root(7)));
    expect(blocks.heldBlocks).toBe(2);
  });

  test('an engine that counts anew with a later time is another one; an old message is not', () => {
    const { stream, replay, blocks, asked } = engine();
    stream.resync('start');
    replay([[0, batch(0, root(1))], [1, batch(1, root(2))]]);
    stream.receive(1, batch(1, root(2)));
    expect([stream.counts.restarts, stream.counts.duplicates, blocks.heldBlocks]).toEqual([0, 1, 2]);
    stream.receive(0, batch(50, root(9)));
    expect(asked).toEqual([0, 0]);
    replay([[0, batch(50, root(9))]]);
    expect([stream.counts.restarts, blocks.heldBlocks, stream.isWhole]).toEqual([1, 1, true]);
  });

  test('a replay that does not end is ended by its deadline', async () => {
    const { stream, clock, blocks } = engine();
    stream.resync('start');
    stream.receive(4, batch(4, root(1)));
    await clock.elapse(99);
    expect(blocks.heldBlocks).toBe(0);
    await clock.elapse(2);
    expect([blocks.heldBlocks, stream.isWhole]).toEqual([1, false]);
  });

  test('an unknown parent reads the state anew, once a minute at most; a message that cannot be read drops it', async () => {
    const { stream, replay, asked, clock, blocks } = engine();
    stream.resync('start');
    replay([[0, batch(0, root(1))]]);
    const orphan = stored([8n], 77n, [1, 2, 3, 4]);
    stream.receive(1, batch(1, orphan));
    expect(asked).toEqual([0, 0]);
    replay([[0, batch(0, root(1))], [1, batch(1, orphan)]]);
    expect([stream.isWhole, blocks.heldBlocks]).toEqual([false, 1]);
    await clock.elapse(70_000);
    stream.receive(2, batch(2, orphan));
    expect(asked, 'asking again would bring the same').toEqual([0, 0]);
    stream.receive(3, Buffer.from('not msgpack'));
    expect([stream.counts.invalidMessages, blocks.heldBlocks]).toEqual([1, 0]);
    stream.receive(4, batch(4, root(5)));
    expect(blocks.heldBlocks).toBe(1);
  });
});

/** vLLM's publisher, on real sockets: a number and a payload per message, kept for whoever asks. */
class FakePublisher {
  readonly pub = new Publisher({ linger: 0 });
  readonly router = new Router({ linger: 0 });
  readonly sent: Buffer[] = [];
  endpoint = '';
  replayEndpoint = '';
  readonly hasTopicInReplay: boolean;
  constructor(hasTopicInReplay: boolean) {
    this.hasTopicInReplay = hasTopicInReplay;
  }
  async open(connectTo?: string): Promise<void> {
    if (connectTo === undefined) await this.pub.bind('tcp://127.0.0.1:*');
    else this.pub.connect(connectTo);
    await this.router.bind('tcp://127.0.0.1:*');
    this.endpoint = this.pub.lastEndpoint!;
    this.replayEndpoint = this.router.lastEndpoint!;
    void this.#serve().catch(() => undefined);
  }
  async #serve(): Promise<void> {
    for await (const [id, , from] of this.router) {
      const topic = this.hasTopicInReplay ? [Buffer.from('kv')] : [];
      for (const [i, payload] of this.sent.entries()) if (i >= Number(from!.readBigUInt64BE())) await this.router.send([id!, '', ...topic, number(i), payload]);
      await this.router.send([id!, '', ...(this.hasTopicInReplay ? [''] : []), Buffer.alloc(8, 0xff), '']);
    }
  }
  async publish(payload: Buffer, isLost = false): Promise<void> {
    this.sent.push(payload);
    if (!isLost) await this.pub.send(['kv@node', number(this.sent.length - 1), payload]);
  }
  close(): void {
    this.pub.close();
    this.router.close();
  }
}

function number(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
}

/** As we name the block of `root(n)`. */
const rootChain = (n: number): string => [...sequenceHashes(Int32Array.of(n, n, n, n), 4, 4, noSalt)].join();

function lastRoot(events: KvEvents): string {
  const [event] = events.snapshot();
  return event?.type === 'stored' ? [...event.sequenceHashes].join() : '';
}

describe('over sockets', () => {
  const closers: (() => void)[] = [];
  afterEach(() => closers.splice(0).forEach((close) => close()));
  const follow = (config: Partial<ConstructorParameters<typeof KvEvents>[0]['config']>): KvEvents => {
    const events = new KvEvents({ config: { endpoint: '', listen: false, replayEndpoint: '', topic: 'kv', replayTimeoutMs: 2000, ...config }, blockSize: 4, clock: realClock, log });
    closers.push(() => events.close());
    return events;
  };

  test.each([['with the topic (since 0.26)', true], ['without it', false]])('what was sent before, live, and lost on the way; replay %s', async (_form, hasTopic) => {
    const publisher = new FakePublisher(hasTopic);
    closers.push(() => publisher.close());
    await publisher.open();
    await publisher.publish(batch(0, root(1)));
    const events = follow({ endpoint: publisher.endpoint, replayEndpoint: publisher.replayEndpoint });
    await events.open();
    await expect.poll(() => [events.heldBlocks, events.isWhole], { timeout: 10_000 }).toEqual([1, true]);
    expect(lastRoot(events)).toBe(rootChain(1));
    await publisher.publish(batch(1, root(2)), true);
    await expect.poll(async () => {
      await publisher.publish(batch(publisher.sent.length, removed([1n]))); // the subscription may not have arrived yet
      return [lastRoot(events), events.isWhole];
    }, { timeout: 10_000 }).toEqual([rootChain(2), true]);
    // Read at the start and once more for the gap; what was lost is there, nothing twice.
    expect(events.counts).toMatchObject({ resyncs: 1, replays: 2, gaps: 1, storedBlocks: 2, invalidMessages: 0, orphanBlocks: 0 });
    expect([events.heldBlocks, events.counts.missedMessages]).toEqual([1, expect.any(Number)]);
    expect(events.counts.missedMessages).toBeGreaterThanOrEqual(1);
  });

  test('without a replay socket a loss leaves nothing that may be wrong', async () => {
    const publisher = new FakePublisher(true);
    closers.push(() => publisher.close());
    await publisher.open();
    const events = follow({ endpoint: publisher.endpoint });
    await events.open();
    await expect.poll(async () => {
      await publisher.publish(batch(publisher.sent.length, root(1)));
      return lastRoot(events);
    }, { timeout: 10_000 }).toBe(rootChain(1));
    await publisher.publish(batch(publisher.sent.length, removed([1n])), true);
    await expect.poll(async () => {
      await publisher.publish(batch(publisher.sent.length, root(3)));
      return events.counts.gaps;
    }, { timeout: 10_000 }).toBe(1);
    await expect.poll(() => [events.heldBlocks, lastRoot(events)], { timeout: 10_000 }).toEqual([1, rootChain(3)]);
    expect([events.counts.missedMessages, events.counts.replays, events.isWhole]).toEqual([1, 0, false]);
  });

  test('an engine that connects to us, and one that comes back as another', async () => {
    const events = follow({ endpoint: 'tcp://127.0.0.1:*', listen: true });
    await events.open();
    expect(events.endpoint).toMatch(/^tcp:\/\/127\.0\.0\.1:\d+$/);
    const told = [rootChain(100), rootChain(200)];
    for (const life of [1, 2]) {
      const publisher = new FakePublisher(true);
      await publisher.open(events.endpoint);
      await expect.poll(async () => {
        await publisher.publish(batch(life * 1000 + publisher.sent.length, root(life * 100)));
        return events.heldBlocks === 1 && events.counts.resyncs >= life && lastRoot(events) === told[life - 1];
      }, { timeout: 10_000 }).toBe(true);
      publisher.close();
    }
  });

  test('a connection that is lost: nothing is claimed when it does not come back in time, all is learned anew when it does', async () => {
    const clock = new ManualClock();
    const events = new KvEvents({ config: { endpoint: 'tcp://127.0.0.1:*', listen: true, replayEndpoint: '', topic: 'kv', replayTimeoutMs: 2000 }, blockSize: 4, clock, log });
    closers.push(() => events.close());
    await events.open();
    const life = async (n: number): Promise<FakePublisher> => {
      const publisher = new FakePublisher(true);
      await publisher.open(events.endpoint);
      await expect.poll(async () => {
        await publisher.publish(batch(n * 1000 + publisher.sent.length, root(n)));
        return [events.heldBlocks, clock.pendingTimers];
      }, { timeout: 10_000 }).toEqual([1, 0]);
      return publisher;
    };
    const first = await life(1);
    first.close();
    await expect.poll(() => clock.pendingTimers, { timeout: 10_000 }).toBe(1);
    await clock.elapse(4_000);
    expect(events.heldBlocks, 'it may be back at once').toBe(1);
    await clock.elapse(2_000);
    expect([events.heldBlocks, events.isWhole]).toEqual([0, false]);
    const second = await life(2);
    second.close();
  });

  test('an address that cannot be used says so', async () => {
    const taken = new Dealer({ linger: 0 });
    closers.push(() => taken.close());
    await taken.bind('tcp://127.0.0.1:*');
    await expect(follow({ endpoint: taken.lastEndpoint!, listen: true }).open()).rejects.toMatchObject({ code: 'VLLM_EVENTS_ENDPOINT' });
    await expect(follow({ endpoint: 'nonsense' }).open()).rejects.toMatchObject({ code: 'VLLM_EVENTS_ENDPOINT' });
  });
});
