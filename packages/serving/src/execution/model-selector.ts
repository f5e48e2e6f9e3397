import { ArmatureError } from '@armature/contracts';
import type { Selection, SelectionQuery, SelectedWorker, Selector, WorkerOverlap } from '@armature/contracts';
import { saltHash, sequenceHashes } from '@armature/tokens';
import type { Route, RouteQuery } from '../routing/model-router.ts';
import type { RequestRecord } from '../routing/records.ts';
import type { Charge } from '../routing/worker-table.ts';
import type { ExecutionHost } from './execution-host.ts';

/** A request unheard of for this long no longer counts as load. */
const EXPIRY_MS = 300_000;
const MAX_TRACKED = 65_536;
const NOBODY: readonly string[] = [];

interface Tracked {
  /** Of the worker that takes the request, then of the one that computes its prompt. */
  charges: readonly Charge[];
  /** The route of the worker that computes the prompt. */
  readonly prompt: Route;
  readonly promptTokens: number;
  readonly record: RequestRecord;
  hasTokens: boolean;
  outputTokens: number;
  heardAtMs: number;
}

/** Placement without execution: the same router, costs and records as for requests that are executed here. */
export class ModelSelector implements Selector {
  readonly #host: ExecutionHost;
  /** By id, least recently heard of first. */
  readonly #tracked = new Map<string, Tracked>();

  constructor(host: ExecutionHost) {
    this.#host = host;
  }

  get tracked(): number {
    return this.#tracked.size;
  }

  select(query: SelectionQuery): Selection {
    const { blockSize, router } = this.#host;
    this.#expire();
    if (this.#tracked.has(query.id)) this.ended(query.id);
    const hashes = sequenceHashes(query.promptTokenIds, query.promptTokenIds.length, blockSize, saltHash({ cacheSalt: query.cacheSalt, lora: query.adapter ?? '' }));
    const isSplit = !router.table.hasRole('both') && (router.table.hasRole('decode') || router.table.hasRole('prefill'));
    const ask = (hop: RouteQuery['hop'], role: RouteQuery['role'], creditsOverlap: boolean): RouteQuery => ({
      id: query.id,
      hop,
      role,
      promptTokens: query.promptTokenIds.length,
      sequenceHashes: hashes,
      blockSize,
      creditsOverlap,
      overrides: query.routing,
      adapter: query.adapter,
      excluded: [],
      startedAtMs: this.#host.clock.nowMs(),
    });
    const mainQuery = isSplit ? ask('decode', 'decode', this.#host.policy.creditsDecodeOverlap) : ask('aggregated', 'both', true);
    const main = routed(router.route(mainQuery));
    const mainWorker = selected(main);
    const prefillQuery = isSplit && this.#isRemote(main, query) ? ask('prefill', 'prefill', true) : undefined;
    const prefill = prefillQuery === undefined ? undefined : routed(router.route(prefillQuery));
    const prefillWorker = prefill === undefined ? undefined : selected(prefill);
    const record = this.#record(query, prefill === undefined ? [main] : [main, prefill]);
    if (query.tracks) {
      const charges = [router.dispatch(main, mainQuery, prefill === undefined ? 'aggregated' : 'decode')];
      if (prefill !== undefined && prefillQuery !== undefined) charges.push(router.dispatch(prefill, prefillQuery, 'prefill'));
      this.#track(query.id, { charges, prompt: prefill ?? main, promptTokens: mainQuery.promptTokens, record, hasTokens: false, outputTokens: 0, heardAtMs: this.#host.clock.nowMs() });
    }
    return { id: query.id, promptTokens: mainQuery.promptTokens, blocks: hashes.length >> 1, blockSize, worker: mainWorker, prefill: prefillWorker };
  }

  prefilled(id: string): boolean {
    const tracked = this.#heard(id);
    if (tracked === undefined) return false;
    if (!tracked.hasTokens) {
      tracked.hasTokens = true;
      const [main, ...prefill] = tracked.charges;
      if (main !== undefined) this.#host.router.prefilled(main, id);
      for (const charge of prefill) this.#host.router.ended(charge, id); // its leg is over
      tracked.charges = tracked.charges.slice(0, 1);
    }
    return true;
  }

  grown(id: string, outputTokens: number): boolean {
    const tracked = this.#heard(id);
    if (tracked === undefined) return false;
    const { blockSize, router } = this.#host;
    const blocks = (tokens: number): number => Math.ceil((tracked.promptTokens + tokens) / blockSize);
    const more = blocks(outputTokens) - blocks(tracked.outputTokens);
    if (more > 0) router.grown(tracked.charges[0]!, id, outputTokens, more);
    tracked.outputTokens = Math.max(tracked.outputTokens, outputTokens);
    return true;
  }

  ended(id: string, cachedTokens?: number): boolean {
    const tracked = this.#tracked.get(id);
    if (tracked === undefined) return false;
    this.#tracked.delete(id);
    for (const charge of tracked.charges) this.#host.router.ended(charge, id);
    tracked.record.outcome = 'finished';
    tracked.record.outputTokens = tracked.outputTokens;
    if (cachedTokens === undefined) return true;
    tracked.record.cachedTokens = cachedTokens;
    this.#host.router.settle(tracked.prompt.decision, tracked.prompt, cachedTokens);
    return true;
  }

  overlaps(promptTokenIds: Int32Array, cacheSalt: string, adapter = ''): readonly WorkerOverlap[] {
    return this.overlapsOf(sequenceHashes(promptTokenIds, promptTokenIds.length, this.#host.blockSize, saltHash({ cacheSalt, lora: adapter })));
  }

  overlapsOf(hashes: Int32Array): readonly WorkerOverlap[] {
    return this.#host.router.overlaps(hashes, this.#host.blockSize);
  }

  #isRemote(route: Route, { promptTokenIds, adapter }: SelectionQuery): boolean {
    const promptTokens = promptTokenIds.length;
    const { policy, input, router, blockSize, model } = this.#host;
    input.promptTokens = promptTokens;
    input.overlapTokens = Math.min(promptTokens, route.overlapBlocks * blockSize);
    input.prefillWorkers = router.table.count('prefill', NOBODY, adapter);
    input.leastPrefillTokens = router.table.leastPrefillTokens('prefill', adapter);
    input.decodePrefillTokens = router.table.activePrefillTokens(route.slot);
    if (!policy.isRemote(input)) return false;
    if (input.prefillWorkers > 0) return true;
    if (policy.whenNoPrefillWorker === 'local') return false;
    throw new ArmatureError('SERVING_NO_PREFILL_WORKER', `no prefill worker of model "${model}" is ready`, { hint: 'start one, or set whenNoPrefillWorker: local on the disaggregation policy', retryable: true });
  }

  #record(query: SelectionQuery, routes: readonly Route[]): RequestRecord {
    const { model, clock, records, blockSize, policy } = this.#host;
    const record: RequestRecord = {
      requestId: query.id,
      model,
      ...(query.adapter === undefined ? {} : { adapter: query.adapter }),
      startedAtMs: clock.wallMs(),
      traceparent: '',
      promptTokens: query.promptTokenIds.length,
      promptBlocks: Math.floor(query.promptTokenIds.length / blockSize),
      cachedTokens: 0,
      outputTokens: 0,
      ttftMs: undefined,
      itlMs: undefined,
      durationMs: undefined,
      outcome: 'selected',
      disaggregation: routes.length > 1 ? { policy: policy.name, remote: true, reason: 'policy' } : undefined,
      decisions: routes.map((route) => route.decision),
      transfer: undefined,
      migrations: 0,
      moves: [],
    };
    records.add(record);
    return record;
  }

  #track(id: string, tracked: Tracked): void {
    this.#tracked.set(id, tracked);
    if (this.#tracked.size <= MAX_TRACKED) return;
    const oldest = this.#tracked.keys().next();
    if (!oldest.done) this.ended(oldest.value);
  }

  #heard(id: string): Tracked | undefined {
    const tracked = this.#tracked.get(id);
    if (tracked === undefined) return undefined;
    tracked.heardAtMs = this.#host.clock.nowMs();
    this.#tracked.delete(id);
    this.#tracked.set(id, tracked);
    return tracked;
  }

  /** Callers that forget to say the end must not fill the workers with ghosts. */
  #expire(): void {
    const limit = this.#host.clock.nowMs() - EXPIRY_MS;
    for (const [id, tracked] of this.#tracked) {
      if (tracked.heardAtMs > limit) return;
      this.ended(id);
    }
  }
}

function routed(route: Route | ArmatureError): Route {
  if (ArmatureError.is(route)) throw route;
  return route as Route;
}

function selected(route: Route): SelectedWorker {
  return { instanceId: route.worker.instanceId, address: route.worker.address, overlapBlocks: route.overlapBlocks, cost: route.cost };
}
