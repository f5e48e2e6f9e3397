import type { EngineBackend, EngineRequest, EngineSink, KvFace, PlaneMessage } from '@armature/contracts';
import type { BlockManager, KvFetchRequest, KvFetchResult } from '@armature/kvbm';
import { describe, expect, it } from 'vitest';
import { ManualClock } from '../test-support/fakes.ts';
import { GenerateLeg } from './generate-leg.ts';
import { PrefillWatch } from './prefill-watch.ts';

const BLOCK_SIZE = 4;

function build(options: { held?: number; running?: number; holds?: boolean; waits?: boolean } = {}) {
  const clock = new ManualClock();
  const log: string[] = [];
  const submitted: { request: EngineRequest; sink: EngineSink }[] = [];
  const fetches: { request: KvFetchRequest; done: (result: KvFetchResult) => void }[] = [];
  const observed: (readonly [number, number])[] = [];
  const sent: PlaneMessage[] = [];
  const load = { running: options.running ?? 0, waiting: 0, prefillTokens: 77 };
  const engine = {
    load: () => load,
    submit: (request: EngineRequest, sink: EngineSink) => {
      submitted.push({ request, sink });
      return {};
    },
    cancel: () => void log.push('engine.cancel'),
  } as unknown as EngineBackend;
  const kv = { match: () => options.held ?? 0, release: (id: number) => void log.push(`release ${id}`) } as unknown as KvFace;
  const ahead: ((queuedTokens: number) => void)[] = [];
  const manager = {
    holds: () => options.holds ?? true,
    passed: (hashes: Int32Array, deviceBlocks: number) => void log.push(`passed ${deviceBlocks} of ${hashes.length / 2}`),
    prefetchAhead: (_hashes: Int32Array, _salt: string, queuedTokens: number, done: (queuedTokens: number) => void) => {
      if (options.waits === true) ahead.push(done);
      else done(queuedTokens);
      return { cancel: () => void log.push('ahead.cancel') };
    },
    fetch: (request: KvFetchRequest, done: (result: KvFetchResult) => void) => {
      fetches.push({ request, done });
      return { cancel: () => void log.push('fetch.cancel') };
    },
  } as unknown as BlockManager;
  const watch = new PrefillWatch(clock, (tokens, milliseconds) => void observed.push([tokens, milliseconds]));
  const stream = { send: (message: PlaneMessage) => void sent.push(message), close: () => void log.push('stream.close') };
  const host = { engine, clock, blockSize: BLOCK_SIZE, eventIdOf: (id: number) => id + 100, closed: () => void log.push('closed') };
  const open = (tokens: number, fields: Partial<EngineRequest> & { source?: EngineRequest['kvSource']; tierless?: boolean } = {}) => {
    const { source, tierless, ...rest } = fields;
    const request = { id: 'r', leg: 'full', tokenIds: new Int32Array(tokens), promptTokens: tokens, sequenceHashes: new Int32Array(2 * Math.floor(tokens / BLOCK_SIZE)), cacheSalt: 'a', ...rest } as EngineRequest;
    const leg = new GenerateLeg(host, request, stream as never);
    leg.start(source, tierless === true ? undefined : { kv, manager, watch, fetchDeadlineMs: 500 }, []);
    return leg;
  };
  return { clock, log, ahead, submitted, fetches, observed, sent, load, open };
}

const nothing: KvFetchResult = { reservation: undefined, readyTokens: 0, record: { runs: [], onboardedBlocks: 0, waitedMs: 0 } };
const brought: KvFetchResult = {
  reservation: 5,
  readyTokens: 8,
  record: { runs: [{ source: 'host', fromBlock: 0, blocks: 2, estimatedMs: 1, recomputeMs: 9, tookMs: 1, outcome: 'done' }], onboardedBlocks: 2, waitedMs: 1 },
};
const usage = (cachedTokens: number): Parameters<EngineSink['end']>[0] => ({ type: 'finished', usage: { promptTokens: 12, cachedTokens, outputTokens: 1 } });

describe('a leg with tiers below its engine', () => {
  it('asks for the blocks that can spare computing, and is submitted with what was brought', () => {
    const t = build();
    t.open(12);
    expect(t.submitted).toHaveLength(0);
    expect(t.fetches[0]?.request).toMatchObject({ promptTokens: 12, cacheSalt: 'a', queuedTokens: 77, deadlineMs: 500, peers: [] });
    expect(t.fetches[0]?.request.sequenceHashes).toHaveLength(4); // of 3 blocks: the last token is computed, so the last block is not worth bringing
    t.fetches[0]?.done(brought);
    expect(t.submitted[0]?.request.kvSource).toEqual({ type: 'reservation', reservation: 5, readyTokens: 8 });
    expect(t.sent).toEqual([{ type: 'fetched', record: brought.record }]);
    t.submitted[0]?.sink.end(usage(8), 7);
    expect(t.sent.at(-1)).toMatchObject({ type: 'end', cachedTokens: 8, eventId: 107 });
    expect(t.log).toEqual(['stream.close', 'closed']);
  });

  it('of which no tier holds a block is submitted at once, counted, without a fetch', () => {
    const t = build({ holds: false, held: 1 });
    t.open(12);
    expect([t.fetches.length, t.submitted.length, t.sent, t.log]).toEqual([0, 1, [], ['passed 1 of 2']]);
  });

  it('waits for its prefetch while the engine has other work, and is fetched for with what is left of that', () => {
    const t = build({ waits: true });
    t.open(12);
    expect([t.fetches.length, t.submitted.length]).toEqual([0, 0]);
    t.ahead[0]?.(40.5);
    expect(t.fetches[0]?.request.queuedTokens).toBe(40.5);
    const drained = build({ waits: true });
    drained.open(12);
    drained.load.prefillTokens = 3; // quicker than was thought
    drained.ahead[0]?.(40);
    expect(drained.fetches[0]?.request.queuedTokens).toBe(3);
    const idle = build({ waits: true });
    idle.load.prefillTokens = 0;
    idle.open(12);
    expect([idle.ahead.length, idle.fetches.length]).toEqual([0, 1]);
  });

  it('cancelled while it waits for its prefetch is gone at once', () => {
    const t = build({ waits: true });
    t.open(12).closed(undefined);
    expect([t.log, t.fetches, t.submitted]).toEqual([['ahead.cancel', 'closed'], [], []]);
  });

  it('is submitted as it is when nothing was brought, with no word about it', () => {
    const t = build();
    t.open(9);
    t.fetches[0]?.done(nothing);
    expect([t.submitted[0]?.request.kvSource, t.sent]).toEqual([undefined, []]);
  });

  it('asks nobody when the engine has it all, when there is no whole block, for other legs and sources, and without tiers', () => {
    const held = build({ held: 2 });
    held.open(12);
    const t = build();
    t.open(4);
    t.open(12, { leg: 'decode' });
    t.open(12, { source: { type: 'opaque', params: {} } });
    t.open(12, { tierless: true });
    expect([held.fetches.length, held.submitted.length, t.fetches.length, t.submitted.length]).toEqual([0, 1, 0, 4]);
    expect(t.submitted[2]?.request.kvSource).toEqual({ type: 'opaque', params: {} });
  });

  it('cancelled during the fetch never reaches the engine, and gives back what comes all the same', () => {
    for (const result of [nothing, brought]) {
      const t = build();
      const leg = t.open(12);
      leg.closed(undefined);
      leg.closed(undefined);
      expect(t.log).toEqual(['fetch.cancel']); // not gone before its pins are
      t.fetches[0]?.done(result);
      expect(t.log).toEqual(['fetch.cancel', ...(result === brought ? ['release 5'] : []), 'closed']);
      expect([t.submitted, t.sent]).toEqual([[], []]);
    }
  });

  it('cancelled after that is cancelled in the engine', () => {
    const t = build();
    const leg = t.open(12);
    t.fetches[0]?.done(brought);
    leg.closed(undefined);
    t.submitted[0]?.sink.end({ type: 'cancelled' });
    expect(t.log).toEqual(['engine.cancel', 'stream.close', 'closed']);
  });
});

describe('how fast the engine computes', () => {
  it('is seen where a prompt ran alone: tokens computed, time to the first token', () => {
    const t = build({ held: 9 });
    t.open(12);
    t.clock.advance(30);
    t.submitted[0]?.sink.tokens({ count: 0, tokenIds: new Int32Array(0), finish: new Uint8Array(0), topCount: 0 } as never);
    t.clock.advance(500);
    t.submitted[0]?.sink.end(usage(4));
    expect(t.observed).toEqual([[8, 30]]);
  });

  it('is not seen with company, before or after it, nor of what failed', () => {
    const busy = build({ held: 9, running: 1 });
    busy.open(12);
    const joined = build({ held: 9 });
    joined.open(12);
    joined.load.running = 1;
    joined.open(12);
    const failed = build({ held: 9 });
    failed.open(12);
    for (const t of [busy, joined, failed]) {
      t.clock.advance(30);
      for (const { sink } of t.submitted) sink.tokens({ count: 0, tokenIds: new Int32Array(0), finish: new Uint8Array(0), topCount: 0 } as never);
      for (const { sink } of t.submitted) sink.end(t === failed ? { type: 'failed', error: { code: 'X', message: '' } } : usage(4));
      expect(t.observed).toEqual([]);
    }
  });
});
