import { ArmatureError } from '@armature/contracts';
import type { ErrorData, InferenceRequest, RoutingHop, WorkerRecord, WorkerRole } from '@armature/contracts';
import { saltHash, sequenceHashes } from '@armature/tokens';
import { sessionKey } from '../admission/session-table.ts';
import type { Route, RouteQuery } from '../routing/model-router.ts';
import type { RequestRecord } from '../routing/records.ts';
import { canExchangeKv, kvIncompatible } from '../worker/arena-segments.ts';
import type { ExecutionHost } from './execution-host.ts';

const NONE: readonly string[] = [];

/** A worker chosen, and the question it is the answer to. */
export interface Routed {
  readonly route: Route;
  readonly query: RouteQuery;
}

export type Placed =
  | { readonly type: 'full'; readonly main: Routed; readonly hop: RoutingHop }
  | { readonly type: 'split'; readonly prefill: Routed; readonly decode: Routed }
  /** Parked in the queue, or refused by it. */
  | { readonly type: 'waits' }
  | Refused;

interface Refused {
  readonly type: 'refused';
  readonly error: ErrorData;
}

/** The part of a request that is computed in one place: all its choices from the start, or one choice that goes on. */
export interface Share {
  readonly firstChoice: number;
  readonly choices: number;
  /** Output that the tokens contain already. */
  readonly replayed: number;
  /** Prompt, then that output. */
  readonly tokenIds: Int32Array;
}

export interface PlacementSetup {
  readonly host: ExecutionHost;
  readonly request: InferenceRequest;
  readonly record: RequestRecord;
  /** Of the attempt, towards router and engines. */
  readonly id: string;
  readonly share: Share;
  readonly startedAtMs: number;
  /** Instances that get this request no more; grows. */
  readonly excluded: readonly string[];
  /** True: parked, or refused. */
  readonly waits: (role: WorkerRole, uncachedTokens: () => number) => boolean;
}

/** Chooses workers for one attempt: one for everything, or one for prefill and one for decode. */
export class Placement {
  readonly #setup: PlacementSetup;
  #hashes: Int32Array | undefined = undefined;
  /** Milliseconds to the first token where it was placed, as predicted; NaN without a prediction. */
  predictedMs = NaN;

  constructor(setup: PlacementSetup) {
    this.#setup = setup;
  }

  /** Of the complete blocks of the share's tokens. */
  get hashes(): Int32Array {
    const { share, request, host } = this.#setup;
    return (this.#hashes ??= sequenceHashes(share.tokenIds, share.tokenIds.length, host.blockSize, saltHash({ cacheSalt: request.cacheSalt, lora: request.adapter ?? '' })));
  }

  /** May throw what a policy throws. */
  choose(): Placed {
    const { router, policy } = this.#setup.host;
    const isSplit = !router.table.hasRole('both') && (router.table.hasRole('decode') || router.table.hasRole('prefill'));
    if (!isSplit) return this.#waits('both') ? { type: 'waits' } : this.#full('aggregated', 'both');
    if (this.#waits('decode')) return { type: 'waits' };
    const decode = this.#route('decode', 'decode', policy.creditsDecodeOverlap);
    if ('error' in decode) return decode;
    const { isRemote, refusal } = this.#decide(decode.route);
    if (isRemote && this.#waits('prefill')) return { type: 'waits' };
    this.#setup.record.decisions.push(decode.route.decision);
    if (refusal !== undefined) return { type: 'refused', error: refusal };
    if (!isRemote) return { type: 'full', main: decode, hop: 'aggregated' };
    const prefill = this.#prefillFor(decode.route.worker);
    if (prefill === undefined) return this.#unreadable(decode);
    if ('error' in prefill) return prefill;
    this.#setup.record.decisions.push(prefill.route.decision);
    return { type: 'split', prefill, decode };
  }

  /** A prefill worker whose KV the decode worker can read; undefined: there are some, and it can read none of them. */
  #prefillFor(decode: WorkerRecord): Routed | Refused | undefined {
    return this.#exchanging(decode, (unreadable) => this.#route('prefill', 'prefill', true, unreadable));
  }

  /** The first worker of a route that exchanges KV with `other`; undefined: there are some, and none does. */
  #exchanging(other: WorkerRecord, route: (unreadable: readonly string[]) => Routed | Refused): Routed | Refused | undefined {
    const unreadable: string[] = [];
    for (;;) {
      const found = route(unreadable);
      if ('error' in found) return unreadable.length === 0 ? found : undefined;
      const { worker } = found.route;
      if (canExchangeKv(worker, other)) return found;
      unreadable.push(worker.instanceId);
    }
  }

  /** As with no prefill worker at all: by policy, counted, visible. */
  #unreadable(decode: Routed): Placed {
    const { host, record } = this.#setup;
    host.metrics.fallbacks.inc();
    this.predictedMs = NaN;
    const error = kvIncompatible('any prefill worker').toData();
    if (host.policy.whenNoPrefillWorker !== 'local') return { type: 'refused', error };
    record.disaggregation = { policy: host.policy.name, remote: false, reason: error.code };
    return { type: 'full', main: decode, hop: 'aggregated' };
  }

  /** Another decode worker, one that can read what `prefill` computes or holds. */
  decodeAgain(prefill: WorkerRecord): Routed | undefined {
    const { creditsDecodeOverlap } = this.#setup.host.policy;
    const decode = this.#exchanging(prefill, (unreadable) => this.#route('decode', 'decode', creditsDecodeOverlap, unreadable));
    if (decode === undefined || 'error' in decode) return undefined;
    this.#setup.record.decisions.push(decode.route.decision);
    return decode;
  }

  #full(hop: RoutingHop, role: WorkerRole): Placed {
    const main = this.#route(hop, role, true);
    if ('error' in main) return main;
    this.#setup.record.decisions.push(main.route.decision);
    return { type: 'full', main, hop };
  }

  #route(hop: RoutingHop, role: WorkerRole, creditsOverlap: boolean, unreadable: readonly string[] = NONE): Routed | Refused {
    const query = this.#query(hop, role, creditsOverlap);
    const route = this.#setup.host.router.route(unreadable.length === 0 ? query : { ...query, excluded: [...query.excluded, ...unreadable] });
    return ArmatureError.is(route) ? { type: 'refused', error: route.toData() } : { route, query };
  }

  #query(hop: RoutingHop, role: WorkerRole, creditsOverlap: boolean): RouteQuery {
    const { host, request, id, share, excluded, startedAtMs } = this.#setup;
    const { session, cacheSalt, adapter, responseFormat } = request;
    return {
      id,
      hop,
      role,
      promptTokens: share.tokenIds.length,
      sequenceHashes: this.hashes,
      blockSize: host.blockSize,
      creditsOverlap,
      overrides: request.routing,
      adapter,
      format: role === 'prefill' ? undefined : responseFormat?.type,
      excluded,
      session: session === undefined || host.sessions === undefined ? undefined : sessionKey(cacheSalt, session, role),
      startedAtMs,
    };
  }

  #waits(role: WorkerRole): boolean {
    const { waits, host, request, record } = this.#setup;
    if (!waits(role, () => this.#uncachedTokens(role))) return false;
    if (record.queue?.outcome === 'waiting') host.prefetch?.waiting(() => this.hashes, request.cacheSalt, role, request.routing);
    return true;
  }

  /** Tokens that the worker which holds most of them would have to compute. */
  #uncachedTokens(role: WorkerRole): number {
    const { host, share } = this.#setup;
    const { router, blockSize } = host;
    let most = 0;
    for (const { instanceId, overlapBlocks } of router.overlaps(this.hashes, blockSize)) {
      if (overlapBlocks > most && router.table.record(router.table.slotOf(instanceId) ?? -1)?.role === role) most = overlapBlocks;
    }
    return Math.max(0, share.tokenIds.length - most * blockSize);
  }

  /** Local or remote prefill. Output that exists already (migration) is recomputed locally. */
  #decide(route: Route): { readonly isRemote: boolean; readonly refusal?: ErrorData } {
    const { host, request, share, record } = this.#setup;
    const { policy, input, metrics } = host;
    const say = (remote: boolean, reason: string): { readonly isRemote: boolean } => {
      record.disaggregation = { policy: policy.name, remote, reason };
      return { isRemote: remote };
    };
    if (share.replayed > 0) return say(false, 'migrated with its output');
    this.#fillInput(route);
    const isRemote = policy.isRemote(input);
    this.predictedMs = isRemote ? input.remoteFirstTokenMs : input.localFirstTokenMs;
    if (!isRemote) return say(false, 'policy');
    if (input.prefillWorkers > 0) return say(true, 'policy');
    metrics.fallbacks.inc();
    this.predictedMs = NaN;
    if (policy.whenNoPrefillWorker === 'local') return say(false, 'no prefill worker is ready');
    return {
      isRemote: false,
      refusal: {
        code: 'SERVING_NO_PREFILL_WORKER',
        message: `no prefill worker of model "${host.model}"${request.adapter === undefined ? '' : ` that has the adapter "${request.adapter}"`} is ready`,
        hint: 'start one, or set whenNoPrefillWorker: local on the disaggregation policy',
        retryable: true,
      },
    };
  }

  #fillInput(route: Route): void {
    const { host, request, share, excluded } = this.#setup;
    const { policy, input, router, hopTimes, blockSize } = host;
    const promptTokens = share.tokenIds.length;
    input.promptTokens = promptTokens;
    input.overlapTokens = Math.min(promptTokens, route.overlapBlocks * blockSize);
    input.prefillWorkers = router.table.count('prefill', excluded, request.adapter);
    input.leastPrefillTokens = router.table.leastPrefillTokens('prefill', request.adapter);
    input.decodePrefillTokens = router.table.activePrefillTokens(route.slot);
    input.localFirstTokenMs = NaN;
    input.remoteFirstTokenMs = NaN;
    if (hopTimes === undefined || policy.usesPredictions !== true) return; // the prefill workers' overlap is not looked up for nothing
    input.localFirstTokenMs = hopTimes.localMs(input.decodePrefillTokens + promptTokens - input.overlapTokens);
    const blocks = Math.ceil(promptTokens / blockSize) - route.overlapBlocks;
    input.remoteFirstTokenMs = hopTimes.remoteMs(input.leastPrefillTokens + this.#uncachedTokens('prefill'), Math.max(0, blocks));
  }
}
