import { ArmatureError, FinishCode } from '@armature/contracts';
import type {
  ErrorData,
  InferenceHandle,
  InferenceRequest,
  PlaneMessage,
  PrefillHandover,
  RoutingHop,
  TokenBatch,
  TokenSink,
  Usage,
  WorkerRole,
} from '@armature/contracts';
import { saltHash, sequenceHashes } from '@armature/tokens';
import { Passage } from '../admission/passage.ts';
import { sessionKey } from '../admission/session-table.ts';
import { Method, numberField, parseFetched, parseHandover, requestMessage, tokensFrom } from '../messages.ts';
import type { EngineRequestFields } from '../messages.ts';
import type { Route, RouteQuery } from '../routing/model-router.ts';
import type { RequestRecord } from '../routing/records.ts';
import type { Charge } from '../routing/worker-table.ts';
import { callUnary } from '../worker/unary.ts';
import type { ExecutionHost } from './execution-host.ts';
import { peersOf } from './kv-peers.ts';
import { Leg } from './leg.ts';
import type { LegListener } from './leg.ts';
import { TokenLog } from './token-log.ts';

const RELEASE_TIMEOUT_MS = 2_000;
const CANCELLED = 'SERVING_CANCELLED';

/**
 * One request from placement to its one terminal item.
 *
 * Aggregated: one `main` leg (full). Disaggregated: a `prefill` leg on P; at its first progress a `main` leg on D that pulls the KV;
 * at the end of P the `start` message with the first tokens. A lost worker means a new placement with what was generated so far.
 */
export class RequestRun implements InferenceHandle, LegListener {
  readonly #host: ExecutionHost;
  readonly #request: InferenceRequest;
  readonly #sink: TokenSink;
  readonly #id: string;
  readonly #startedAtMs: number;
  readonly #record: RequestRecord;
  /** Undefined: there is no queue. */
  readonly #passage: Passage | undefined;
  /** Output so far of a single-choice request, to continue elsewhere. */
  readonly #log: TokenLog;
  readonly #excluded: string[] = [];
  #hashes: Int32Array;
  #main: Leg | undefined;
  #prefill: Leg | undefined;
  /** Decode worker chosen while prefill runs. */
  #decodeRoute: { readonly route: Route; readonly query: RouteQuery } | undefined;
  #handover: PrefillHandover | undefined;
  #firstTokens: Int32Array | undefined;
  /** The route of the leg that computes the prompt: the one whose overlap can be compared with what the engine had. */
  #prompt: Route | undefined;
  /** Output tokens that were part of the prompt when the worker was charged (migration). */
  #replayed = 0;
  #openChoices: number;
  #hasEnded = false;
  #isRemote = false;
  /** Why the last worker was left. */
  #lastError: ErrorData | undefined;
  #cachedTokens = 0;
  /** What the router's index says the chosen worker holds; an engine computes at least one token itself. */
  #expectedCachedTokens = 0;
  #steps = 0;
  #firstTokenAtMs = 0;
  #lastTokenAtMs = 0;

  constructor(host: ExecutionHost, request: InferenceRequest, sink: TokenSink) {
    this.#host = host;
    this.#request = request;
    this.#sink = sink;
    this.#id = host.nextRunId();
    this.#startedAtMs = host.clock.nowMs();
    this.#hashes = new Int32Array(0);
    this.#log = new TokenLog(request.choices === 1 && host.migrationLimit > 0);
    this.#openChoices = request.choices;
    this.#passage = this.#openPassage();
    this.#record = {
      requestId: request.id,
      model: host.model,
      startedAtMs: host.clock.wallMs(),
      traceparent: request.traceparent,
      promptTokens: request.promptTokenIds.length,
      promptBlocks: Math.floor(request.promptTokenIds.length / host.blockSize),
      cachedTokens: 0,
      outputTokens: 0,
      ttftMs: undefined,
      itlMs: undefined,
      durationMs: undefined,
      outcome: 'running',
      disaggregation: undefined,
      decisions: [],
      transfer: undefined,
      migrations: 0,
    };
    host.records.add(this.#record);
  }

  start(): void {
    this.#place();
  }

  stop(): Usage {
    if (!this.#hasEnded) {
      if (!this.#isRemote) this.#cachedTokens = this.#expectedCachedTokens;
      this.#finish();
    }
    return this.#usage();
  }

  cancel(): void {
    if (this.#hasEnded) return;
    this.#closeLegs();
    this.#end('cancelled');
    this.#sink.end({ type: 'cancelled' });
  }

  // ---------------------------------------------------------------- placement

  #openPassage(): Passage | undefined {
    const { admission, clock } = this.#host;
    if (admission === undefined) return undefined;
    return new Passage({
      queue: admission,
      request: this.#request,
      startedAtMs: this.#startedAtMs,
      nowMs: () => clock.nowMs(),
      admitted: () => this.#place(),
      refused: (error) => this.#fail(error),
      recorded: (record) => (this.#record.queue = record),
    });
  }

  /** True: parked, or refused. Only the first placement waits: a request that moves has had its turn. */
  #waits(role: WorkerRole): boolean {
    if (this.#passage === undefined || this.#record.migrations > 0) return false;
    return this.#passage.holds(role, () => this.#uncachedTokens(role));
  }

  /** Prompt tokens that the worker which holds most of them would have to compute. */
  #uncachedTokens(role: WorkerRole): number {
    const { router, blockSize } = this.#host;
    let most = 0;
    for (const { instanceId, overlapBlocks } of router.overlaps(this.#hashes, blockSize)) {
      if (overlapBlocks > most && router.table.record(router.table.slotOf(instanceId) ?? -1)?.role === role) most = overlapBlocks;
    }
    return Math.max(0, this.#request.promptTokenIds.length - most * blockSize);
  }

  /** Chooses workers and opens the first leg. What a policy throws ends this request, not its caller. */
  #place(): void {
    try {
      this.#choose();
    } catch (error) {
      this.#closeLegs();
      this.#fail(ArmatureError.from(error, 'SERVING_PLACEMENT_FAILED').toData());
    }
  }

  #choose(): void {
    const { blockSize, router } = this.#host;
    const tokens = this.#tokens();
    // One that waited in the queue has its hashes.
    const isHashed = this.#hashes.length > 0 && this.#replayed === this.#log.length;
    this.#replayed = this.#log.length;
    if (!isHashed) this.#hashes = sequenceHashes(tokens, tokens.length, blockSize, saltHash({ cacheSalt: this.#request.cacheSalt }));
    const isSplit = !router.table.hasRole('both') && (router.table.hasRole('decode') || router.table.hasRole('prefill'));
    if (!isSplit) {
      if (!this.#waits('both')) this.#placeFull('aggregated', 'both');
      return;
    }
    if (this.#waits('decode')) return;
    const query = this.#query('decode', 'decode', this.#host.policy.creditsDecodeOverlap);
    const route = router.route(query);
    if (ArmatureError.is(route)) {
      this.#fail(route.toData());
      return;
    }
    const decision = this.#decide(route, tokens.length);
    if (decision.isRemote && this.#waits('prefill')) return;
    this.#record.decisions.push(route.decision);
    if (decision.refusal !== undefined) this.#fail(decision.refusal);
    else if (decision.isRemote) this.#placePrefill(route, query);
    else this.#openFull(route, query, 'aggregated');
  }

  /** Local or remote prefill. Output that exists already (migration) is recomputed locally. */
  #decide(route: Route, promptTokens: number): { readonly isRemote: boolean; readonly refusal?: ErrorData } {
    const { policy, input, router, metrics, blockSize } = this.#host;
    const say = (remote: boolean, reason: string): { readonly isRemote: boolean } => {
      this.#record.disaggregation = { policy: policy.name, remote, reason };
      return { isRemote: remote };
    };
    if (this.#log.length > 0) return say(false, 'migrated with its output');
    input.promptTokens = promptTokens;
    input.overlapTokens = Math.min(promptTokens, route.overlapBlocks * blockSize);
    input.prefillWorkers = router.table.count('prefill', this.#excluded);
    input.leastPrefillTokens = router.table.leastPrefillTokens('prefill');
    input.decodePrefillTokens = router.table.activePrefillTokens(route.slot);
    if (!policy.isRemote(input)) return say(false, 'policy');
    if (input.prefillWorkers > 0) return say(true, 'policy');
    metrics.fallbacks.inc();
    if (policy.whenNoPrefillWorker === 'local') return say(false, 'no prefill worker is ready');
    return {
      isRemote: false,
      refusal: {
        code: 'SERVING_NO_PREFILL_WORKER',
        message: `no prefill worker of model "${this.#host.model}" is ready`,
        hint: 'start one, or set whenNoPrefillWorker: local on the disaggregation policy',
        retryable: true,
      },
    };
  }

  #placeFull(hop: RoutingHop, role: WorkerRole): void {
    const query = this.#query(hop, role, true);
    const route = this.#host.router.route(query);
    if (ArmatureError.is(route)) {
      this.#fail(route.toData());
      return;
    }
    this.#record.decisions.push(route.decision);
    this.#openFull(route, query, hop);
  }

  #openFull(route: Route, query: RouteQuery, hop: RoutingHop): void {
    if (hop === 'aggregated' && query.role === 'decode') this.#host.metrics.localPrefills.inc();
    this.#isRemote = false;
    this.#prompt = route;
    const { blockSize } = this.#host;
    this.#expectedCachedTokens = blockSize * Math.min(route.overlapBlocks, Math.floor((this.#request.promptTokenIds.length - 1) / blockSize));
    const charge = this.#dispatch(route, query, hop);
    this.#main = new Leg('main', route.worker, charge, this);
    this.#openLeg(this.#main, Method.Generate, requestMessage(this.#engineRequest('full'), peersOf(route, this.#host.router.table)));
  }

  #placePrefill(decodeRoute: Route, decodeQuery: RouteQuery): void {
    const query = this.#query('prefill', 'prefill', true);
    const route = this.#host.router.route(query);
    if (ArmatureError.is(route)) {
      this.#fail(route.toData());
      return;
    }
    this.#record.decisions.push(route.decision);
    this.#host.metrics.remotePrefills.inc();
    this.#isRemote = true;
    this.#prompt = route;
    this.#decodeRoute = { route: decodeRoute, query: decodeQuery };
    const charge = this.#dispatch(route, query, 'prefill');
    this.#prefill = new Leg('prefill', route.worker, charge, this);
    this.#openLeg(this.#prefill, Method.Generate, requestMessage(this.#engineRequest('prefill'), peersOf(route, this.#host.router.table, decodeRoute)));
  }

  #dispatch(route: Route, query: RouteQuery, hop: RoutingHop): Charge {
    const { router, sessions, clock, blockSize } = this.#host;
    const charge = router.dispatch(route, query, hop);
    if (hop !== 'decode') this.#passage?.dispatched(Math.max(0, query.promptTokens - route.overlapBlocks * blockSize));
    if (sessions !== undefined && query.session !== undefined) sessions.bind(query.session, route.worker.instanceId, clock.nowMs());
    return charge;
  }

  #openLeg(leg: Leg, method: string, message: PlaneMessage): void {
    const deadlineMs = this.#request.deadlineMs - (this.#host.clock.nowMs() - this.#startedAtMs);
    if (deadlineMs <= 0) {
      this.#closeLegs();
      this.#fail(this.#deadlineError(leg.kind));
      return;
    }
    leg.open(this.#host.requests, { method, message, deadlineMs, traceparent: this.#request.traceparent });
  }

  #query(hop: RoutingHop, role: WorkerRole, creditsOverlap: boolean): RouteQuery {
    const { session, cacheSalt } = this.#request;
    return {
      id: this.#id,
      hop,
      role,
      promptTokens: this.#request.promptTokenIds.length + this.#log.length,
      sequenceHashes: this.#hashes,
      blockSize: this.#host.blockSize,
      creditsOverlap,
      overrides: this.#request.routing,
      excluded: this.#excluded,
      session: session === undefined || this.#host.sessions === undefined ? undefined : sessionKey(cacheSalt, session, role),
      startedAtMs: this.#startedAtMs,
    };
  }

  #engineRequest(leg: 'full' | 'prefill' | 'decode'): EngineRequestFields {
    const { request, host } = { request: this.#request, host: this.#host };
    return {
      id: this.#id,
      leg,
      tokenIds: this.#tokens(),
      promptTokens: request.promptTokenIds.length,
      sequenceHashes: this.#hashes,
      cacheSalt: request.cacheSalt,
      sampling: request.sampling,
      stop: request.stop,
      choices: request.choices,
      firstTokens: undefined,
      priority: request.priority,
      leaseTtlMs: host.leaseTtlMs,
    };
  }

  #tokens(): Int32Array {
    return this.#log.append(this.#request.promptTokenIds);
  }

  // ---------------------------------------------------------------- messages of the legs

  legMessage(leg: Leg, message: PlaneMessage): void {
    if (this.#hasEnded || leg.isComplete) return; // nothing counts after the terminal message
    try {
      switch (message.type) {
        case 'tokens':
          this.#onTokens(leg, tokensFrom(message));
          break;
        case 'prefilled':
          this.#onPrefilled(parseHandover(message));
          break;
        case 'transferred':
          this.#onTransferred(message);
          break;
        case 'fetched':
          this.#record.kv = parseFetched(message);
          break;
        case 'end':
          this.#onEnd(leg, message);
          break;
        default:
          break; // a newer worker may say more
      }
    } catch (error) {
      const failure = ArmatureError.from(error, 'SERVING_MESSAGE_INVALID').toData();
      this.#closeLegs();
      this.#fail(failure);
    }
  }

  #onTokens(leg: Leg, batch: TokenBatch): void {
    const now = this.#host.clock.nowMs();
    if (leg.kind === 'prefill') {
      if (leg.worker.firstToken === 'decode') return; // sampled to end the prefill only; never shown
      this.#keepFirstTokens(batch);
    }
    if (this.#steps === 0) {
      this.#firstTokenAtMs = now;
      this.#record.ttftMs = now - this.#startedAtMs;
    }
    if (!leg.hasTokens) {
      leg.hasTokens = true; // of this leg, not of the request: after a migration the new worker has prefilled too
      this.#host.router.prefilled(leg.charge, this.#id);
      this.#host.admission?.capacityChanged();
    }
    this.#steps++;
    this.#lastTokenAtMs = now;
    const before = this.#record.outputTokens;
    this.#record.outputTokens = before + batch.count;
    this.#log.push(batch);
    this.#chargeGrowth(leg.charge, before, before + batch.count);
    for (let i = 0; i < batch.count; i++) if (batch.finish[i] !== FinishCode.None) this.#openChoices--;
    this.#sink.tokens(batch);
  }

  #keepFirstTokens(batch: TokenBatch): void {
    this.#firstTokens ??= new Int32Array(this.#request.choices).fill(-1);
    for (let i = 0; i < batch.count; i++) {
      if (batch.finish[i] === FinishCode.None) this.#firstTokens[batch.choices?.[i] ?? 0] = batch.tokenIds[i];
    }
  }

  #chargeGrowth(charge: Charge, before: number, after: number): void {
    const { blockSize, router } = this.#host;
    const start = this.#request.promptTokenIds.length;
    if (Math.ceil((start + after) / blockSize) > Math.ceil((start + before) / blockSize)) router.grown(charge, this.#id, after - this.#replayed);
  }

  /** P computes or has computed. The first word of it brings D in. */
  #onPrefilled(handover: PrefillHandover): void {
    this.#handover = handover;
    this.#cachedTokens = handover.cachedTokens;
    if (handover.params !== undefined) return; // the engine's own lease: D is opened when P has ended
    if (this.#main === undefined) this.#openDecode();
    this.#main?.send({ type: 'prefilled', lease: handover.lease, blocks: handover.blocks, tokens: handover.tokens, cachedTokens: handover.cachedTokens });
  }

  #openDecode(): void {
    const chosen = this.#decodeRoute;
    const prefill = this.#prefill;
    if (chosen === undefined || prefill === undefined) return;
    const charge = this.#dispatch(chosen.route, chosen.query, 'decode');
    this.#main = new Leg('main', chosen.route.worker, charge, this);
    this.#record.transfer = {
      from: prefill.worker.instanceId,
      to: chosen.route.worker.instanceId,
      matchedBlocks: 0,
      movedBlocks: 0,
      movedBytes: 0,
      durationMs: 0,
      outcome: 'running',
    };
    const request = this.#engineRequest('decode');
    const params = this.#handover?.params;
    if (params !== undefined) {
      this.#openLeg(this.#main, Method.Generate, requestMessage({ ...request, firstTokens: this.#firstTokens }, { opaqueSource: params as PlaneMessage }));
      return;
    }
    const { address, agentMetadata, layoutFingerprint } = prefill.worker;
    this.#openLeg(this.#main, Method.Decode, requestMessage(request, { source: { address, agentMetadata, layoutFingerprint } }));
  }

  #onTransferred(message: PlaneMessage): void {
    const transfer = this.#record.transfer;
    if (transfer === undefined) return;
    transfer.matchedBlocks = numberField(message, 'matchedBlocks');
    transfer.movedBlocks = numberField(message, 'movedBlocks');
    transfer.movedBytes = numberField(message, 'movedBytes');
    transfer.durationMs = numberField(message, 'durationMs');
    transfer.outcome = String(message['outcome']);
  }

  #onEnd(leg: Leg, message: PlaneMessage): void {
    leg.isComplete = true;
    const eventId = numberField(message, 'eventId');
    if (leg.kind === 'main') {
      if (!this.#isRemote) this.#cachedTokens = Math.min(this.#request.promptTokenIds.length, numberField(message, 'cachedTokens'));
      this.#host.router.whenApplied(leg.slot, eventId, () => {
        if (this.#main === leg) this.#finish();
      });
      return;
    }
    this.#discharge(leg);
    this.#host.router.whenApplied(leg.slot, eventId, () => {
      if (this.#prefill === leg) this.#prefillEnded();
    });
  }

  /** The prompt is computed: D goes on, unless the first token was the last. */
  #prefillEnded(): void {
    if (this.#hasEnded) return;
    if (this.#openChoices <= 0) {
      this.#releaseLease();
      this.#main?.cancel();
      this.#finish();
      return;
    }
    if (this.#main === undefined) this.#openDecode();
    if (this.#handover?.params === undefined) {
      this.#main?.send({ type: 'start', promptTokens: this.#request.promptTokenIds.length, firstTokens: this.#firstTokens });
    }
  }

  /** Without a decode leg nobody else would; with one, the decode worker does it when its stream closes. */
  #releaseLease(): void {
    const lease = this.#handover?.lease ?? 0;
    const prefill = this.#prefill;
    if (lease === 0 || prefill === undefined || this.#main !== undefined) return;
    const open = { method: Method.ReleaseLease, message: { type: 'lease', lease }, deadlineMs: RELEASE_TIMEOUT_MS };
    callUnary(this.#host.requests, prefill.worker.address, open, () => undefined);
  }

  legClosed(leg: Leg, error: ErrorData | undefined): void {
    if (this.#hasEnded || leg.isComplete) return;
    this.#legFailed(leg, error ?? { code: 'SERVING_STREAM_INCOMPLETE', message: `worker ${leg.worker.instanceId} ended the stream too early`, retryable: true });
  }

  // ---------------------------------------------------------------- failure and end

  #legFailed(leg: Leg, error: ErrorData): void {
    this.#closeLegs();
    if (this.#openChoices <= 0) {
      this.#finish(); // every choice has had its last token: only the worker's goodbye is missing
      return;
    }
    if (error.code === 'PLANE_DEADLINE_EXCEEDED') {
      this.#fail(this.#deadlineError(leg.kind));
      return;
    }
    const canMove = error.retryable === true && this.#record.migrations < this.#host.migrationLimit && (this.#steps === 0 || this.#log.isComplete);
    if (!canMove) {
      this.#fail(error);
      return;
    }
    this.#host.log.warn('request moves to another worker', { code: error.code, request: this.#request.id, from: leg.worker.instanceId, outputTokens: this.#log.length });
    this.#host.metrics.migrations.inc();
    this.#forgetSession(leg);
    this.#record.migrations++;
    this.#lastError = error;
    this.#excluded.push(leg.worker.instanceId);
    this.#resetAttempt();
    this.#place();
  }

  /** What failed this request is no place to stay. */
  #forgetSession(leg: Leg): void {
    const { session, cacheSalt } = this.#request;
    if (session !== undefined) this.#host.sessions?.unbind(sessionKey(cacheSalt, session, leg.worker.role), leg.worker.instanceId);
  }

  #resetAttempt(): void {
    this.#main = undefined;
    this.#prefill = undefined;
    this.#decodeRoute = undefined;
    this.#handover = undefined;
    this.#firstTokens = undefined;
  }

  #deadlineError(kind: string): ErrorData {
    const arrow = kind === 'prefill' ? 'prefill' : this.#steps === 0 ? 'first token' : 'decode';
    return {
      code: 'SERVING_DEADLINE_EXCEEDED',
      message: `the request's ${this.#request.deadlineMs} ms were used up during ${arrow}`,
      hint: 'allow more time (x-request-timeout-ms), or add workers',
    };
  }

  /** Takes back every charge and closes every stream. */
  #closeLegs(): void {
    for (const leg of [this.#prefill, this.#main]) {
      if (leg === undefined) continue;
      if (!leg.isComplete) leg.cancel(); // a complete leg's stream ends by itself
      this.#discharge(leg);
    }
  }

  #discharge(leg: Leg): void {
    if (!leg.isCharged) return;
    leg.isCharged = false;
    this.#host.router.ended(leg.charge, this.#id);
    this.#host.admission?.capacityChanged();
  }

  #finish(): void {
    if (this.#hasEnded) return;
    this.#closeLegs();
    this.#end('finished');
    this.#sink.end({ type: 'finished', usage: this.#usage() });
  }

  #usage(): Usage {
    return { promptTokens: this.#request.promptTokenIds.length, cachedTokens: this.#cachedTokens, outputTokens: this.#record.outputTokens };
  }

  /** When nobody is left, the client hears why the last worker refused: "overloaded" and "no worker" are answered differently. */
  #reasonOf(error: ErrorData): ErrorData {
    const last = this.#lastError;
    if (error.code !== 'SERVING_NO_WORKER' || last === undefined) return error;
    return last.code.endsWith('_OVERLOADED') ? last : { ...error, message: `${error.message}; the last one said ${last.code}` };
  }

  #fail(reported: ErrorData): void {
    if (this.#hasEnded) return;
    const error = this.#reasonOf(reported);
    if (error.code === CANCELLED) {
      this.#end('cancelled');
      this.#sink.end({ type: 'cancelled' });
      return;
    }
    // Refusals come in floods, and are counted.
    const say = error.refusal === undefined ? 'warn' : 'debug';
    this.#host.log[say]('request failed', { code: error.code, request: this.#request.id, message: error.message });
    this.#end(error.code);
    this.#sink.end({ type: 'failed', error });
  }

  #end(outcome: string): void {
    this.#hasEnded = true;
    this.#passage?.ended();
    const { metrics, clock } = this.#host;
    if (outcome === 'finished') metrics.finished.inc();
    else if (outcome === 'cancelled') metrics.cancelled.inc();
    else metrics.failed.inc();
    const record = this.#record;
    record.outcome = outcome;
    record.cachedTokens = this.#cachedTokens;
    if (outcome === 'finished' && this.#prompt !== undefined && this.#replayed === 0) this.#host.router.settle(this.#prompt.decision, this.#prompt, this.#cachedTokens);
    record.durationMs = clock.nowMs() - this.#startedAtMs;
    if (this.#steps > 1) record.itlMs = (this.#lastTokenAtMs - this.#firstTokenAtMs) / (this.#steps - 1);
  }
}
