import assert from 'node:assert/strict';
import type { EngineBackend, EngineHandle, EngineRequest, KvArena, KvFace, PrefillHandover } from '../engine-backend.ts';
import type { FinishCode, InferenceEnd } from '../inference.ts';
import type { KvEvent } from '../kv-events.ts';

/** What a suite needs to know of its surroundings. */
export interface EngineSurroundings {
  /** A new engine, not started, independent of all others. At least 48 blocks and a context of 12 blocks; tokens 1..99 are in the vocabulary. */
  create(): EngineBackend | Promise<EngineBackend>;
  /** Lets about `ms` milliseconds of the engines' clock pass. */
  elapse(ms: number): Promise<void>;
  /** Sequence hashes of the complete blocks, interleaved words: `sequenceHashes` of `@armature/tokens` with the salt of `cacheSalt`. */
  hash(tokenIds: Int32Array, blockSize: number, cacheSalt: string): Int32Array;
}

/** Everything that a sink was told, without judging it. */
export class Recording {
  readonly request: EngineRequest;
  /** Per choice. */
  readonly tokens: number[][];
  readonly finishes: FinishCode[][];
  readonly logprobs: number[] = [];
  readonly topTokenIds: number[][] = [];
  readonly topLogprobs: number[][] = [];
  readonly handovers: PrefillHandover[] = [];
  readonly ends: InferenceEnd[] = [];
  /** Names of the calls in order. */
  readonly calls: string[] = [];
  /** Whether the choices column was there, per batch. */
  readonly hadChoices: boolean[] = [];
  readonly hadLogprobs: boolean[] = [];
  handle: EngineHandle | undefined = undefined;
  onBatch: (() => void) | undefined = undefined;
  onEnd: ((eventId: number | undefined) => void) | undefined = undefined;

  constructor(request: EngineRequest) {
    this.request = request;
    this.tokens = Array.from({ length: request.choices }, () => []);
    this.finishes = Array.from({ length: request.choices }, () => []);
  }

  get end(): InferenceEnd | undefined {
    return this.ends[0];
  }

  /** Type of the end, with the code of a failure. */
  get outcome(): string {
    const end = this.end;
    return end === undefined ? 'running' : end.type === 'failed' ? `failed ${end.error.code}` : end.type;
  }

  get rows(): number {
    return this.tokens.reduce((sum, tokens) => sum + tokens.length, 0);
  }
}

/** The cache as KV events tell it: a plain set. */
export class ReplayedCache {
  readonly #held = new Set<string>();

  get size(): number {
    return this.#held.size;
  }

  apply(event: KvEvent): void {
    if (event.type === 'cleared') this.#held.clear();
    else for (let i = 0; i < event.sequenceHashes.length / 2; i++) this.#held[event.type === 'stored' ? 'add' : 'delete'](hashKey(event.sequenceHashes, i));
  }

  /** Leading blocks held. */
  match(hashes: Int32Array): number {
    let blocks = 0;
    while (blocks < hashes.length / 2 && this.#held.has(hashKey(hashes, blocks))) blocks++;
    return blocks;
  }
}

function hashKey(hashes: Int32Array, i: number): string {
  return `${hashes[2 * i]},${hashes[2 * i + 1]}`;
}

/** One started engine, what it said, and requests to it. */
export class EngineSession {
  readonly engine: EngineBackend;
  readonly events: KvEvent[] = [];
  readonly cache = new ReplayedCache();
  readonly #around: EngineSurroundings;
  #requests = 0;

  private constructor(engine: EngineBackend, around: EngineSurroundings) {
    this.engine = engine;
    this.#around = around;
  }

  static async open(around: EngineSurroundings): Promise<EngineSession> {
    const session = new EngineSession(await around.create(), around);
    session.engine.onKvEvent((event) => {
      session.events.push(event);
      session.cache.apply(event);
    });
    await session.#settle(session.engine.start());
    return session;
  }

  get blockSize(): number {
    return this.engine.info.blockSize;
  }

  get kv(): KvFace {
    assert.ok(this.engine.kv !== undefined, 'the engine has a kv face');
    return this.engine.kv;
  }

  /** `length` tokens that depend on `seed` alone. */
  prompt(seed: number, length: number): Int32Array {
    const next = seeded(seed);
    return Int32Array.from({ length }, () => 1 + next(99));
  }

  blocks(count: number, seed: number): Int32Array {
    return this.prompt(seed, count * this.blockSize);
  }

  hashes(tokenIds: Int32Array, cacheSalt = ''): Int32Array {
    return this.#around.hash(tokenIds, this.blockSize, cacheSalt);
  }

  request(tokenIds: Int32Array, overrides: Partial<EngineRequest> = {}): EngineRequest {
    return {
      id: `contract-${++this.#requests}`,
      leg: 'full',
      tokenIds: tokenIds.slice(),
      promptTokens: tokenIds.length,
      sequenceHashes: this.hashes(tokenIds, overrides.cacheSalt),
      cacheSalt: '',
      sampling: {
        temperature: 0,
        topP: 1,
        topK: 0,
        minP: 0,
        seedLo: 11,
        seedHi: 12,
        frequencyPenalty: 0,
        presencePenalty: 0,
        repetitionPenalty: 1,
        biasTokenIds: new Int32Array(0),
        biasValues: new Float32Array(0),
        topLogprobs: -1,
      },
      stop: { maxTokens: 8, minTokens: 0, stopTokenIds: new Int32Array(0), ignoreEos: true },
      choices: 1,
      firstTokens: undefined,
      priority: 0,
      kvSource: undefined,
      leaseTtlMs: 60_000,
      ...overrides,
    };
  }

  /** Submits; nothing is judged. */
  submit(request: EngineRequest): Recording {
    const recording = new Recording(request);
    recording.handle = this.engine.submit(request, {
      tokens: (batch) => {
        recording.calls.push('tokens');
        recording.hadChoices.push(batch.choices !== undefined);
        recording.hadLogprobs.push(batch.logprobs !== undefined);
        for (let i = 0; i < batch.count; i++) {
          const choice = batch.choices?.[i] ?? 0;
          recording.tokens[choice]?.push(batch.tokenIds[i] as number);
          recording.finishes[choice]?.push(batch.finish[i] as FinishCode);
          if (batch.logprobs !== undefined) recording.logprobs.push(batch.logprobs[i] as number);
          if (batch.topTokenIds !== undefined) recording.topTokenIds.push([...batch.topTokenIds.slice(i * batch.topCount, (i + 1) * batch.topCount)]);
          if (batch.topLogprobs !== undefined) recording.topLogprobs.push([...batch.topLogprobs.slice(i * batch.topCount, (i + 1) * batch.topCount)]);
        }
        recording.onBatch?.();
      },
      prefilled: (handover) => {
        recording.calls.push('prefilled');
        recording.handovers.push({ ...handover, blocks: handover.blocks.slice() });
      },
      end: (end, eventId) => {
        recording.calls.push('end');
        recording.ends.push(end);
        recording.onEnd?.(eventId);
      },
    });
    return recording;
  }

  async run(tokenIds: Int32Array, overrides: Partial<EngineRequest> = {}): Promise<Recording> {
    const recording = this.submit(this.request(tokenIds, overrides));
    await this.ended(recording);
    return recording;
  }

  async ended(...recordings: Recording[]): Promise<void> {
    await this.until(`${recordings.length} requests end`, () => recordings.every(({ ends }) => ends.length > 0));
  }

  /** All requests have ended and the engine rests. */
  async settled(...recordings: Recording[]): Promise<void> {
    await this.ended(...recordings);
    await this.until('no request runs or waits', () => this.engine.load().running + this.engine.load().waiting === 0);
    await this.#around.elapse(WAIT_MS); // the pass that may still run
    await this.#around.elapse(WAIT_MS);
  }

  async until(what: string, holds: () => boolean): Promise<void> {
    for (let i = 0; i < WAIT_LIMIT; i++) {
      if (holds()) return;
      await this.#around.elapse(WAIT_MS);
    }
    assert.fail(`did not happen: ${what}`);
  }

  elapse(ms: number): Promise<void> {
    return this.#around.elapse(ms);
  }

  async close(): Promise<void> {
    await this.#settle(this.engine.close?.());
  }

  /** Lets time pass until a promise settles. */
  async #settle(promise: Promise<void> | void): Promise<void> {
    const state = { isSettled: false };
    const settled = (): void => void (state.isSettled = true);
    const pending = Promise.resolve(promise);
    pending.then(settled, settled);
    await this.until('start and close settle', () => state.isSettled);
    await pending;
  }
}

const WAIT_MS = 2;
const WAIT_LIMIT = 5000;

/** Bytes of a block, all pieces one after the other. A view when the block is one piece. */
export function blockBytes(arena: KvArena, block: number): Uint8Array[] {
  const segment = arena.segments[0];
  assert.ok(segment !== undefined, 'the arena has a segment');
  return Array.from({ length: arena.pieces }, (_, piece) => {
    const at = block * arena.blockStrideBytes + piece * arena.pieceStrideBytes;
    assert.ok(at + arena.pieceBytes <= segment.lengthBytes, `block ${block} lies inside the arena`);
    return new Uint8Array(segment.buffer, segment.byteOffset + at, arena.pieceBytes);
  });
}

/** What a transport does. */
export function copyBlocks(from: KvArena, fromBlocks: Int32Array, to: KvArena, toBlocks: Int32Array): void {
  fromBlocks.forEach((block, i) => {
    const source = blockBytes(from, block);
    blockBytes(to, toBlocks[i] as number).forEach((piece, p) => piece.set(source[p] as Uint8Array));
  });
}

/** Mulberry32: small, seeded. */
export function seeded(seed: number): (bound: number) => number {
  let state = seed >>> 0;
  return (bound) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % bound;
  };
}
