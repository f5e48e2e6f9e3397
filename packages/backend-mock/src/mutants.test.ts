import { FinishCode } from '@armature/contracts';
import type { EngineBackend, EngineHandle, EngineLoad, EngineRequest, EngineSink, ErrorData, InferenceEnd, KvEvent, KvFace, PrefillHandover, TokenBatch } from '@armature/contracts';
import { engineBackendRules } from '@armature/contracts/testing/engine-backend';
import { afterAll, describe, expect, it } from 'vitest';
import { BLOCK_SIZE, MockWorld } from './testing.test.support.ts';

/** Passes everything on; each mutant breaks one thing. */
class Mutant implements EngineBackend {
  readonly inner: EngineBackend;
  readonly world: MockWorld;
  readonly legs = new Map<EngineHandle, EngineRequest>();

  constructor(world: MockWorld) {
    this.world = world;
    this.inner = world.create();
  }
  get abilities(): EngineBackend['abilities'] {
    return this.inner.abilities;
  }
  get info(): EngineBackend['info'] {
    return this.inner.info;
  }
  get kv(): KvFace {
    return Object.assign(Object.create(this.inner.kv!), faceOf(this.inner.kv!), this.face(this.inner.kv!)) as KvFace;
  }
  face(_kv: KvFace): Partial<KvFace> {
    return {};
  }
  async start(): Promise<void> {
    await this.inner.start();
  }
  submit(request: EngineRequest, sink: EngineSink): EngineHandle {
    const changed = this.request(request);
    const handle = this.inner.submit(changed, {
      tokens: (batch) => this.tokens(changed, batch, sink),
      prefilled: (handover) => this.prefilled(changed, handover, sink),
      end: (end, eventId) => this.ended(changed, end, sink, eventId),
    });
    this.legs.set(handle, request);
    return handle;
  }
  request(request: EngineRequest): EngineRequest {
    return request;
  }
  tokens(_request: EngineRequest, batch: TokenBatch, sink: EngineSink): void {
    sink.tokens(batch);
  }
  prefilled(_request: EngineRequest, handover: PrefillHandover, sink: EngineSink): void {
    sink.prefilled?.(handover);
  }
  ended(_request: EngineRequest, end: InferenceEnd, sink: EngineSink, eventId?: number): void {
    sink.end(end, eventId);
  }
  cancel(handle: EngineHandle): void {
    this.inner.cancel(handle);
  }
  load(): EngineLoad {
    return this.inner.load();
  }
  onKvEvent(listener: (event: KvEvent) => void): void {
    this.inner.onKvEvent(listener);
  }
  snapshot(): readonly KvEvent[] {
    return this.inner.snapshot();
  }
  failure(): ErrorData | undefined {
    return this.inner.failure();
  }
  async drain(deadlineMs: number): Promise<void> {
    await this.inner.drain?.(deadlineMs);
  }
  async close(): Promise<void> {
    await this.inner.close?.();
  }
}

function faceOf(kv: KvFace): KvFace {
  return {
    arena: () => kv.arena(),
    match: (hashes) => kv.match(hashes),
    reserve: (...args) => kv.reserve(...args),
    lease: (...args) => kv.lease(...args),
    evictable: (limit) => kv.evictable(limit),
    commit: (id, blocks) => kv.commit(id, blocks),
    release: (id) => kv.release(id),
    quarantine: (id) => kv.quarantine(id),
    renewLease: (lease, ttlMs) => kv.renewLease(lease, ttlMs),
    releaseLease: (lease) => kv.releaseLease(lease),
    counts: () => kv.counts(),
  };
}

const leaked: NodeJS.Timeout[] = [];
afterAll(() => leaked.forEach((timer) => clearInterval(timer)));

/** Rule that must fail → what breaks it. */
const mutants: readonly [name: string, rule: RegExp, make: (world: MockWorld) => EngineBackend][] = [
  [
    'claims a role it has not',
    /^shape/,
    (world) =>
      new (class extends Mutant {
        override get abilities(): EngineBackend['abilities'] {
          return { ...this.inner.abilities, maxTopLogprobs: 5 };
        }
      })(world),
  ],
  [
    'forgets the finish code of the third choice',
    /^choices/,
    (world) =>
      new (class extends Mutant {
        override tokens(request: EngineRequest, batch: TokenBatch, sink: EngineSink): void {
          sink.tokens(request.choices === 3 ? { ...batch, finish: batch.finish.map((code, i) => (batch.choices?.[i] === 2 ? FinishCode.None : code)) } : batch);
        }
      })(world),
  ],
  [
    'counts the whole prompt as cached',
    /^usage/,
    (world) =>
      new (class extends Mutant {
        override ended({ kvSource }: EngineRequest, end: InferenceEnd, sink: EngineSink, eventId?: number): void {
          sink.end(end.type === 'finished' && end.usage.cachedTokens > 0 && kvSource === undefined ? { ...end, usage: { ...end.usage, cachedTokens: end.usage.promptTokens } } : end, eventId);
        }
      })(world),
  ],
  [
    'draws differently in company',
    /^the same request/,
    (world) =>
      new (class extends Mutant {
        override request(request: EngineRequest): EngineRequest {
          const { running, waiting } = this.inner.load();
          return running + waiting === 0 ? request : { ...request, sampling: { ...request.sampling, seedLo: request.sampling.seedLo + 1 } };
        }
      })(world),
  ],
  [
    'counts output from zero after a migration',
    /^output made elsewhere/,
    (world) =>
      new (class extends Mutant {
        override request(request: EngineRequest): EngineRequest {
          return { ...request, promptTokens: request.tokenIds.length };
        }
      })(world),
  ],
  [
    'stops before minTokens',
    /^a stop token/,
    (world) =>
      new (class extends Mutant {
        override request(request: EngineRequest): EngineRequest {
          return { ...request, stop: { ...request.stop, minTokens: 0 } };
        }
      })(world),
  ],
  [
    'gives positive logprobs',
    /^logprobs/,
    (world) =>
      new (class extends Mutant {
        override tokens(_request: EngineRequest, batch: TokenBatch, sink: EngineSink): void {
          sink.tokens({ ...batch, topLogprobs: batch.topLogprobs?.map((value) => -value) });
        }
      })(world),
  ],
  [
    'ends a refused request twice',
    /^exactly one terminal/,
    (world) =>
      new (class extends Mutant {
        override ended(_request: EngineRequest, end: InferenceEnd, sink: EngineSink, eventId?: number): void {
          sink.end(end, eventId);
          if (end.type === 'failed' && end.error.code !== 'ENGINE_CLOSED') sink.end(end, eventId);
        }
      })(world),
  ],
  [
    'throws on an empty prompt',
    /^refusals/,
    (world) =>
      new (class extends Mutant {
        override submit(request: EngineRequest, sink: EngineSink): EngineHandle {
          if (request.tokenIds.length === 0) throw new Error('empty');
          return super.submit(request, sink);
        }
      })(world),
  ],
  [
    'calls the end of the context a stop',
    /^the context length/,
    (world) =>
      new (class extends Mutant {
        override tokens(request: EngineRequest, batch: TokenBatch, sink: EngineSink): void {
          sink.tokens(request.stop.maxTokens === 100 ? { ...batch, finish: batch.finish.map((code) => (code === FinishCode.Length ? FinishCode.Stop : code)) } : batch);
        }
      })(world),
  ],
  [
    'loses a block with each cancelled request',
    /^cancel ends/,
    (world) =>
      new (class extends Mutant {
        override cancel(handle: EngineHandle): void {
          this.inner.cancel(handle);
          if (this.legs.get(handle)?.leg === 'full' && this.legs.get(handle)?.stop.maxTokens === 60) this.inner.kv?.reserve(new Int32Array(0), 1, 1e9);
        }
      })(world),
  ],
  [
    'says nothing when cancelled',
    /^cancel ends/,
    (world) =>
      new (class extends Mutant {
        override ended(request: EngineRequest, end: InferenceEnd, sink: EngineSink, eventId?: number): void {
          if (end.type !== 'cancelled' || request.leg !== 'full') sink.end(end, eventId);
        }
      })(world),
  ],
  [
    'ends again when cancelled after the end',
    /^cancel after the end/,
    (world) =>
      new (class extends Mutant {
        readonly finished = new Map<EngineRequest, EngineSink>();
        override ended(request: EngineRequest, end: InferenceEnd, sink: EngineSink, eventId?: number): void {
          if (end.type === 'finished') this.finished.set(request, sink);
          sink.end(end, eventId);
        }
        override cancel(handle: EngineHandle): void {
          this.inner.cancel(handle);
          this.finished.get(this.legs.get(handle)!)?.end({ type: 'cancelled' });
        }
      })(world),
  ],
  [
    'dies of a sink that throws',
    /^a sink that throws/,
    (world) =>
      new (class extends Mutant {
        override tokens(_request: EngineRequest, batch: TokenBatch, sink: EngineSink): void {
          try {
            sink.tokens(batch);
          } catch {
            void this.inner.close?.();
          }
        }
      })(world),
  ],
  [
    'starves low priorities',
    /^many requests/,
    (world) =>
      new (class extends Mutant {
        override ended(request: EngineRequest, end: InferenceEnd, sink: EngineSink, eventId?: number): void {
          sink.end(request.priority === 1 ? { type: 'failed', error: { code: 'ENGINE_STARVED', message: '' } } : end, eventId);
        }
      })(world),
  ],
  [
    'closes without a word',
    /^close ends/,
    (world) =>
      new (class extends Mutant {
        override ended(_request: EngineRequest, end: InferenceEnd, sink: EngineSink, eventId?: number): void {
          if (end.type !== 'failed' || end.error.code !== 'ENGINE_CLOSED') sink.end(end, eventId);
        }
      })(world),
  ],
  [
    'takes requests while it drains',
    /^drain/,
    (world) =>
      new (class extends Mutant {
        override async drain(): Promise<void> {
          while (this.inner.load().running + this.inner.load().waiting > 0) await this.world.clock.sleep(1);
        }
      })(world),
  ],
  [
    'keeps a timer',
    /^engines that were created/,
    (world) =>
      new (class extends Mutant {
        override async start(): Promise<void> {
          await this.inner.start();
          leaked.push(setInterval(() => undefined, 1e6));
        }
      })(world),
  ],
  [
    'skips an event id',
    /^KV event ids/,
    (world) =>
      new (class extends Mutant {
        override onKvEvent(listener: (event: KvEvent) => void): void {
          this.inner.onKvEvent((event) => listener(event.eventId === 3 ? { ...event, eventId: 4 } : event));
        }
      })(world),
  ],
  [
    'does not announce blocks filled while decoding',
    /^replayed KV events/,
    (world) =>
      new (class extends Mutant {
        readonly prompts = new Set<string>();
        override request(request: EngineRequest): EngineRequest {
          for (let i = 0; i < request.sequenceHashes.length; i += 2) this.prompts.add(request.sequenceHashes.slice(i, i + 2).join());
          return request;
        }
        override onKvEvent(listener: (event: KvEvent) => void): void {
          this.inner.onKvEvent((event) => {
            const isDecoded = event.type === 'stored' && event.sequenceHashes.length === 2 && this.prompts.size > 3 && !this.prompts.has(event.sequenceHashes.join());
            listener(isDecoded ? { ...event, sequenceHashes: new Int32Array(0) } : event);
          });
        }
      })(world),
  ],
  [
    'does not announce evictions',
    /^replayed KV events/,
    (world) =>
      new (class extends Mutant {
        override onKvEvent(listener: (event: KvEvent) => void): void {
          this.inner.onKvEvent((event) => listener(event.type === 'removed' ? { ...event, sequenceHashes: new Int32Array(0) } : event));
        }
      })(world),
  ],
  [
    'leaves a chain out of the snapshot',
    /^a snapshot/,
    (world) =>
      new (class extends Mutant {
        override snapshot(): readonly KvEvent[] {
          return this.inner.snapshot().slice(1);
        }
      })(world),
  ],
  [
    'announces blocks after the end',
    /stored events come before/,
    (world) =>
      new (class extends Mutant {
        isCommitting = false;
        override face(kv: KvFace): Partial<KvFace> {
          const commit = (id: number, blocks: number): void => {
            this.isCommitting = true;
            kv.commit(id, blocks);
            this.isCommitting = false;
          };
          return { commit };
        }
        override onKvEvent(listener: (event: KvEvent) => void): void {
          const held: KvEvent[] = [];
          const flush = (): void => held.splice(0).forEach((event) => listener(event));
          this.inner.onKvEvent((event) => {
            held.push(event);
            if (this.isCommitting) flush();
            else this.world.clock.setTimer(1, flush);
          });
        }
      })(world),
  ],
  [
    'does not say that the whole prompt is readable',
    /^prefill leg/,
    (world) =>
      new (class extends Mutant {
        override prefilled(request: EngineRequest, handover: PrefillHandover, sink: EngineSink): void {
          if (handover.tokens < request.promptTokens || request.kvSource !== undefined) sink.prefilled?.(handover);
        }
      })(world),
  ],
  [
    'does not pin what it leased',
    /^leased blocks keep/,
    (world) =>
      new (class extends Mutant {
        readonly broken = new Set<number>();
        override prefilled(request: EngineRequest, handover: PrefillHandover, sink: EngineSink): void {
          sink.prefilled?.(handover);
          if (request.leaseTtlMs !== 60_000 || handover.tokens < request.promptTokens) return;
          this.inner.kv?.releaseLease(handover.lease);
          this.broken.add(handover.lease);
        }
        override face(kv: KvFace): Partial<KvFace> {
          return { releaseLease: (lease) => (this.broken.delete(lease) ? 'valid' : kv.releaseLease(lease)) };
        }
      })(world),
  ],
  [
    'calls every lease valid',
    /^a lease that was not renewed/,
    (world) =>
      new (class extends Mutant {
        readonly byHash = new Set<number>();
        override face(kv: KvFace): Partial<KvFace> {
          const lease: KvFace['lease'] = (...args) => {
            const granted = kv.lease(...args);
            if (granted !== undefined) this.byHash.add(granted.id);
            return granted;
          };
          return { lease, releaseLease: (id) => (this.byHash.has(id) ? kv.releaseLease(id) : (kv.releaseLease(id), 'valid')) };
        }
      })(world),
  ],
  [
    'renews for too short a time',
    /^a renewed lease/,
    (world) =>
      new (class extends Mutant {
        override face(kv: KvFace): Partial<KvFace> {
          return { renewLease: (lease, ttlMs) => kv.renewLease(lease, ttlMs / 4) };
        }
      })(world),
  ],
  [
    'ends the lease of a cancelled prefill leg',
    /^a cancelled prefill leg/,
    (world) =>
      new (class extends Mutant {
        lease = 0;
        override prefilled(_request: EngineRequest, handover: PrefillHandover, sink: EngineSink): void {
          this.lease = handover.lease;
          sink.prefilled?.(handover);
        }
        override cancel(handle: EngineHandle): void {
          this.inner.cancel(handle);
          if (this.legs.get(handle)?.leg === 'prefill') this.inner.kv?.releaseLease(this.lease);
        }
      })(world),
  ],
  [
    'reserves one block less',
    /^reserved blocks are distinct/,
    (world) =>
      new (class extends Mutant {
        override face(kv: KvFace): Partial<KvFace> {
          return { reserve: (hashes, blocks, ...rest) => kv.reserve(hashes, blocks === 5 && kv.match(hashes) === 0 ? 4 : blocks, ...rest) };
        }
      })(world),
  ],
  [
    'frees quarantined blocks',
    /^destination rule/,
    (world) =>
      new (class extends Mutant {
        override face(kv: KvFace): Partial<KvFace> {
          return { quarantine: (id) => kv.release(id) };
        }
      })(world),
  ],
  [
    'frees reserved blocks when their time is over',
    /^destination rule/,
    (world) =>
      new (class extends Mutant {
        override face(kv: KvFace): Partial<KvFace> {
          const reserve: KvFace['reserve'] = (hashes, blocks, ttlMs, cacheSalt) => {
            const reservation = kv.reserve(hashes, blocks, ttlMs, cacheSalt);
            if (reservation !== undefined && ttlMs < 1000) this.world.clock.setTimer(ttlMs, () => kv.release(reservation.id));
            return reservation;
          };
          return { reserve };
        }
      })(world),
  ],
  [
    'commits once only',
    /^committed blocks/,
    (world) =>
      new (class extends Mutant {
        readonly committed = new Set<number>();
        override face(kv: KvFace): Partial<KvFace> {
          const commit = (id: number, blocks: number): void => {
            if (!this.committed.has(id)) kv.commit(id, blocks);
            this.committed.add(id);
          };
          return { commit };
        }
      })(world),
  ],
  [
    'forgets the reservation of a refused decode leg',
    /^a cancelled or refused decode leg/,
    (world) =>
      new (class extends Mutant {
        override request(request: EngineRequest): EngineRequest {
          return request.tokenIds.includes(-5) ? { ...request, kvSource: undefined } : request;
        }
      })(world),
  ],
  [
    'starts the second choice of a decode leg anew',
    /^a decode leg goes on/,
    (world) =>
      new (class extends Mutant {
        override request(request: EngineRequest): EngineRequest {
          return request.leg === 'decode' && request.choices === 2 ? { ...request, firstTokens: request.firstTokens?.map((token, i) => (i === 1 ? (token + 1) % 90 : token)) } : request;
        }
      })(world),
  ],
  [
    'takes every reserved block as filled',
    /^a decode leg computes/,
    (world) =>
      new (class extends Mutant {
        override request(request: EngineRequest): EngineRequest {
          const source = request.kvSource;
          return source?.type === 'reservation' && source.readyTokens === 2 * BLOCK_SIZE ? { ...request, kvSource: { ...source, readyTokens: request.promptTokens } } : request;
        }
      })(world),
  ],
  [
    'leases what it does not hold',
    /^a lease by hash pins/,
    (world) =>
      new (class extends Mutant {
        override face(kv: KvFace): Partial<KvFace> {
          return { lease: (hashes, from, to, ...rest) => kv.lease(hashes, Math.min(from, 3), to, ...rest) };
        }
      })(world),
  ],
  [
    'lets leases by hash expire early',
    /^a lease by hash lives/,
    (world) =>
      new (class extends Mutant {
        override face(kv: KvFace): Partial<KvFace> {
          return { renewLease: (lease, ttlMs) => kv.renewLease(lease, ttlMs === 60_000 ? ttlMs / 200 : ttlMs) };
        }
      })(world),
  ],
  [
    'names the youngest blocks first',
    /^evictable names/,
    (world) =>
      new (class extends Mutant {
        override face(kv: KvFace): Partial<KvFace> {
          return { evictable: (limit) => (limit === 2 ? kv.evictable(99).slice(8, 16) : kv.evictable(limit)) };
        }
      })(world),
  ],
  [
    'counts every lease as use',
    /^a lease counts as use/,
    (world) =>
      new (class extends Mutant {
        override face(kv: KvFace): Partial<KvFace> {
          return { lease: (hashes, from, to, ttlMs) => kv.lease(hashes, from, to, ttlMs, true) };
        }
      })(world),
  ],
  [
    'keeps the tenant to itself',
    /^stored events name/,
    (world) =>
      new (class extends Mutant {
        override onKvEvent(listener: (event: KvEvent) => void): void {
          this.inner.onKvEvent((event) => {
            if (event.type !== 'stored') return listener(event);
            const { cacheSalt: _salt, ...rest } = event;
            listener(rest);
          });
        }
      })(world),
  ],
  [
    'computes a full leg anew',
    /^a full leg goes on/,
    (world) =>
      new (class extends Mutant {
        override request(request: EngineRequest): EngineRequest {
          const { kvSource, leg, choices } = request;
          if (kvSource?.type !== 'reservation' || leg !== 'full' || choices !== 2) return request;
          this.inner.kv?.release(kvSource.reservation);
          (this.inner as unknown as { resetPrefixCache(): void }).resetPrefixCache();
          return { ...request, kvSource: undefined };
        }
      })(world),
  ],
  [
    'does not look for what follows the brought blocks',
    /^blocks brought while/,
    (world) =>
      new (class extends Mutant {
        override ended(request: EngineRequest, end: InferenceEnd, sink: EngineSink, eventId?: number): void {
          const isLonger = request.kvSource?.type === 'reservation' && end.type === 'finished' && end.usage.cachedTokens > request.kvSource.readyTokens;
          sink.end(isLonger ? { ...end, usage: { ...end.usage, cachedTokens: 24 } } : end, eventId);
        }
      })(world),
  ],
  [
    'begins the handover of a brought prompt at nothing',
    /^a prefill leg hands over/,
    (world) =>
      new (class extends Mutant {
        isFirst = true;
        override prefilled(request: EngineRequest, handover: PrefillHandover, sink: EngineSink): void {
          const isBrought = request.kvSource !== undefined && this.isFirst;
          if (isBrought) this.isFirst = false;
          sink.prefilled?.(isBrought ? { ...handover, tokens: 0 } : handover);
        }
      })(world),
  ],
];

async function failing(make: (world: MockWorld) => EngineBackend): Promise<string[]> {
  const world = new MockWorld();
  const rules = engineBackendRules({
    abilities: world.create().abilities,
    create: () => make(world),
    elapse: (ms) => world.elapse(ms),
    hash: (tokenIds, blockSize, cacheSalt) => world.hash(tokenIds, blockSize, cacheSalt),
    rounds: 30,
  });
  const names: string[] = [];
  for (const { name, run } of rules) {
    try {
      await run();
    } catch {
      names.push(name);
    }
  }
  return names;
}

describe('broken engines fail exactly the rule they break', () => {
  it('the engine itself fails none', async () => {
    expect(await failing((world) => new Mutant(world))).toEqual([]);
  });
  it.each(mutants)('%s', async (_name, rule, make) => {
    const failed = await failing(make);
    expect(failed).toEqual([expect.stringMatching(rule)]);
  });
  it('every rule has a mutant', () => {
    const world = new MockWorld();
    const rules = engineBackendRules({ abilities: world.create().abilities, create: () => world.create(), elapse: (ms) => world.elapse(ms), hash: (tokens, size, salt) => world.hash(tokens, size, salt) });
    expect(rules.filter(({ name }) => !mutants.some(([, rule]) => rule.test(name))).map(({ name }) => name)).toEqual([]);
  });
});
