import type { ErrorData, InferenceHandle, InferenceRequest, RoutingHop, TokenBatch, TokenSink, Usage, WorkerRole } from '@armature/contracts';
import { Passage } from '../admission/passage.ts';
import { sessionKey } from '../admission/session-table.ts';
import type { Route } from '../routing/model-router.ts';
import type { MoveRecord, RequestRecord } from '../routing/records.ts';
import { Attempt } from './attempt.ts';
import type { AttemptOwner } from './attempt-owner.ts';
import type { ExecutionHost } from './execution-host.ts';
import { CANCELLED, deadlineError, neverBegan, isLost, isOverload, isVacancy, reasonOf } from './failures.ts';
import type { Leg } from './leg.ts';
import { OutputLog } from './output-log.ts';
import type { Routed, Share } from './placement.ts';
import type { RoomTicket } from './waiting-room.ts';

/**
 * One request from placement to its one terminal item.
 *
 * It begins as one attempt for all its choices. When a worker is lost, what that attempt was computing goes on elsewhere: from the start while nothing
 * has been delivered, else each open choice by itself, with its prompt and its output so far. Draws are a function of seed, choice and output index, so
 * that the tokens are those of an uninterrupted run.
 */
export class RequestRun implements InferenceHandle, AttemptOwner {
  readonly host: ExecutionHost;
  readonly request: InferenceRequest;
  readonly record: RequestRecord;
  readonly excluded: string[] = [];
  readonly startedAtMs: number;
  readonly #sink: TokenSink;
  /** Undefined: there is no queue. */
  readonly #passage: Passage | undefined;
  readonly #output: OutputLog;
  readonly #attempts: Attempt[] = [];
  readonly #waiting = new Map<Attempt, RoomTicket>();
  #hasEnded = false;
  /** Why the last worker was left. */
  #lastError: ErrorData | undefined = undefined;
  #cachedTokens: number | undefined = undefined;
  /** What the router's index says the chosen worker holds; an engine computes at least one token itself. */
  #expectedCachedTokens = 0;
  /** Who computes the prompt, when its overlap can be compared with what the engine had. */
  #prompt: Route | undefined = undefined;
  #steps = 0;
  #firstTokenAtMs = 0;
  #lastTokenAtMs = 0;

  constructor(host: ExecutionHost, request: InferenceRequest, sink: TokenSink) {
    this.host = host;
    this.request = request;
    this.#sink = sink;
    this.startedAtMs = host.clock.nowMs();
    this.#output = new OutputLog(request.choices);
    this.#passage = this.#openPassage();
    host.telemetry?.arrived(request.promptTokenIds.length);
    this.record = newRecord(host, request);
    host.records.add(this.record);
  }

  start(): void {
    this.#begin({ firstChoice: 0, choices: this.request.choices, replayed: 0, tokenIds: this.request.promptTokenIds }, 0, undefined);
  }

  stop(): Usage {
    if (!this.#hasEnded) {
      this.#cachedTokens ??= this.#expectedCachedTokens;
      this.#finish();
    }
    return this.#usage();
  }

  cancel(): void {
    if (this.#hasEnded) return;
    this.#end('cancelled');
    this.#sink.end({ type: 'cancelled' });
  }

  // ---------------------------------------------------------------- attempts

  #begin(share: Share, depth: number, move: MoveRecord | undefined): void {
    const attempt = new Attempt(this, { share, depth, move });
    this.#attempts.push(attempt);
    attempt.place();
  }

  #openPassage(): Passage | undefined {
    const { admission, clock } = this.host;
    if (admission === undefined) return undefined;
    return new Passage({
      queue: admission,
      request: this.request,
      startedAtMs: this.startedAtMs,
      nowMs: () => clock.nowMs(),
      admitted: () => this.#attempts[0]?.place(),
      refused: (error) => this.#fail(error),
      recorded: (record) => (this.record.queue = record),
    });
  }

  /** Only the first placement waits: a request that moves has had its turn. */
  waits(role: WorkerRole, uncachedTokens: () => number): boolean {
    if (this.#passage === undefined || this.#lastError !== undefined) return false;
    return this.#passage.holds(role, uncachedTokens);
  }

  dispatched({ route, query }: Routed, hop: RoutingHop): void {
    const { sessions, clock, blockSize } = this.host;
    if (hop !== 'decode') this.#passage?.dispatched(Math.max(0, query.promptTokens - route.overlapBlocks * blockSize));
    if (sessions !== undefined && query.session !== undefined) sessions.bind(query.session, route.worker.instanceId, clock.nowMs());
  }

  computes({ replayed }: Share, route: Route): void {
    this.#prompt = replayed === 0 ? route : undefined;
  }

  expectCached(tokens: number): void {
    this.#expectedCachedTokens = tokens;
  }

  /** Computed by one worker is computed, whatever another one finds afterwards. */
  cached(tokens: number): void {
    this.#cachedTokens = Math.min(tokens, this.#cachedTokens ?? tokens);
  }

  tokens(attempt: Attempt, batch: TokenBatch, atMs: number): void {
    this.#output.push(batch);
    this.host.telemetry?.generated(batch.count);
    const isFirst = this.#steps === 0;
    this.#steps += this.request.choices === 1 ? batch.count : 1; // engines may send several tokens at once
    if (isFirst) {
      this.#firstTokenAtMs = atMs;
      this.record.ttftMs = atMs - this.startedAtMs;
      this.host.telemetry?.firstToken(this.record.ttftMs);
    }
    const { move } = attempt;
    if (move !== undefined && move.addedMs === undefined) move.addedMs = atMs - move.sinceMs;
    this.#lastTokenAtMs = atMs;
    this.record.outputTokens = this.#output.tokens;
    this.#sink.tokens(batch);
  }

  isOpen({ firstChoice, choices }: Share): boolean {
    for (let i = 0; i < choices; i++) if (this.#output.isOpen(firstChoice + i)) return true;
    return false;
  }

  attemptEnded(attempt: Attempt): void {
    if (this.#hasEnded) return;
    this.#forget(attempt);
    if (this.#attempts.length === 0) this.#finish();
  }

  // ---------------------------------------------------------------- failure

  attemptFailed(attempt: Attempt, leg: Leg | undefined, error: ErrorData): void {
    if (this.#hasEnded) return;
    if (leg === undefined) {
      this.#unplaced(attempt, error);
      return;
    }
    this.#leave(leg, error);
    if (!this.#canMove(attempt, error)) {
      this.#fail(error);
      return;
    }
    this.#move(attempt, leg, error);
  }

  leaveDecode(attempt: Attempt, leg: Leg, error: ErrorData): MoveRecord | undefined {
    if (!this.#canMove(attempt, error)) return undefined;
    this.#leave(leg, error);
    return this.#moveRecord('decode', attempt.share, leg, error);
  }

  #canMove(attempt: Attempt, error: ErrorData): boolean {
    // A grammar begins at its beginning: what follows a delivered half would be a second whole.
    if (this.request.responseFormat !== undefined && this.#steps > 0) return false;
    return error.retryable === true && (neverBegan(error) || attempt.depth < this.host.migrationLimit);
  }

  /** What failed this request is no place to stay; whether it may serve others is found out. */
  #leave(leg: Leg, error: ErrorData): void {
    const { inhibitions, router, sessions } = this.host;
    const { instanceId, role } = leg.worker;
    const { session, cacheSalt } = this.request;
    this.#lastError = error;
    if (isLost(error)) inhibitions?.inhibit(instanceId, error.code);
    if (session !== undefined) sessions?.unbind(sessionKey(cacheSalt, session, role), instanceId);
    // One that is inhibited may come back: when it answers.
    const slot = router.table.slotOf(instanceId);
    if ((slot === undefined || !router.table.isInhibited(slot)) && !this.excluded.includes(instanceId)) this.excluded.push(instanceId);
  }

  #move(attempt: Attempt, leg: Leg, error: ErrorData): void {
    const { log, metrics } = this.host;
    const from = leg.worker.instanceId;
    log.warn('request moves to another worker', { code: error.code, request: this.request.id, from, outputTokens: this.#output.tokens });
    metrics.migrations.inc();
    this.record.migrations++;
    this.#forget(attempt);
    const depth = attempt.depth + (neverBegan(error) ? 0 : 1);
    for (const share of this.#sharesLeft(attempt.share)) {
      if (this.#hasEnded) return;
      const move = this.#moveRecord('request', share, leg, error);
      this.record.moves.push(move);
      this.#begin(share, depth, move);
    }
  }

  /** From the start while nothing was delivered; else what is open goes on, choice by choice. */
  #sharesLeft(of: Share): Share[] {
    if (this.#steps === 0) return [of];
    const shares: Share[] = [];
    for (let choice = of.firstChoice; choice < of.firstChoice + of.choices; choice++) {
      if (!this.#output.isOpen(choice)) continue;
      shares.push({ firstChoice: choice, choices: 1, replayed: this.#output.lengthOf(choice), tokenIds: this.#output.continued(choice, this.request.promptTokenIds) });
    }
    return shares;
  }

  #moveRecord(kind: MoveRecord['kind'], share: Share, leg: Leg, { code }: ErrorData): MoveRecord {
    return {
      kind,
      from: leg.worker.instanceId,
      to: undefined,
      code,
      choice: share.choices < this.request.choices ? share.firstChoice : undefined,
      atToken: share.choices === 1 ? this.#output.lengthOf(share.firstChoice) : this.#output.tokens,
      sinceMs: this.#steps === 0 ? this.startedAtMs : this.#lastTokenAtMs,
      addedMs: undefined,
    };
  }

  /** No worker for it. Where one was lost, or is out for now, another may come soon. */
  #unplaced(attempt: Attempt, error: ErrorData): void {
    const { host } = this;
    const nowMs = host.clock.nowMs();
    const deadlineAtMs = this.startedAtMs + this.request.deadlineMs;
    attempt.waitsUntilMs ??= Math.min(deadlineAtMs, nowMs + host.failoverWaitMs);
    const leftMs = attempt.waitsUntilMs - nowMs;
    const expired = (): void => {
      this.#waiting.delete(attempt);
      this.#fail(host.clock.nowMs() >= deadlineAtMs ? deadlineError(this.request.deadlineMs, 'placement') : error);
    };
    const resume = (): void => {
      this.#waiting.delete(attempt);
      attempt.place();
    };
    const ticket = leftMs > 0 && isVacancy(error) && this.#hasHope() ? host.waitingRoom?.enter(leftMs, resume, expired) : undefined;
    if (ticket === undefined) this.#fail(error);
    else this.#waiting.set(attempt, ticket);
  }

  /** Where a worker was lost just now another may come; where one said that it is full, none does. */
  #hasHope(): boolean {
    const { router, waitingRoom, failoverWaitMs } = this.host;
    if (this.#lastError !== undefined) return !isOverload(this.#lastError);
    return router.table.inhibitedWorkers > 0 || waitingRoom?.hasLost(failoverWaitMs) === true;
  }

  #forget(attempt: Attempt): void {
    const at = this.#attempts.indexOf(attempt);
    if (at !== -1) this.#attempts.splice(at, 1);
  }

  // ---------------------------------------------------------------- end

  #finish(): void {
    if (this.#hasEnded) return;
    this.#end('finished');
    this.#sink.end({ type: 'finished', usage: this.#usage() });
  }

  #usage(): Usage {
    return { promptTokens: this.request.promptTokenIds.length, cachedTokens: this.#cachedTokens ?? 0, outputTokens: this.record.outputTokens };
  }

  #fail(reported: ErrorData): void {
    if (this.#hasEnded) return;
    const error = reasonOf(reported, this.#lastError);
    if (error.code === CANCELLED) {
      this.cancel();
      return;
    }
    // Refusals come in floods, and are counted.
    const say = error.refusal === undefined ? 'warn' : 'debug';
    this.host.log[say]('request failed', { code: error.code, request: this.request.id, message: error.message });
    this.#end(error.code);
    this.#sink.end({ type: 'failed', error });
  }

  /** Everything goes back: streams, charges, leases, places in queues. */
  #end(outcome: string): void {
    this.#hasEnded = true;
    for (const ticket of this.#waiting.values()) ticket.leave();
    this.#waiting.clear();
    for (const attempt of this.#attempts.splice(0)) attempt.close();
    this.#passage?.ended();
    this.#settle(outcome);
  }

  #settle(outcome: string): void {
    const { metrics, clock, router } = this.host;
    if (outcome === 'finished') metrics.finished.inc();
    else if (outcome === 'cancelled') metrics.cancelled.inc();
    else metrics.failed.inc();
    const { record } = this;
    record.outcome = outcome;
    record.cachedTokens = this.#cachedTokens ?? 0;
    const prompt = this.#prompt;
    if (outcome === 'finished' && prompt !== undefined) router.settle(prompt.decision, prompt, record.cachedTokens);
    record.durationMs = clock.nowMs() - this.startedAtMs;
    if (this.#steps > 1) record.itlMs = (this.#lastTokenAtMs - this.#firstTokenAtMs) / (this.#steps - 1);
    this.#report(outcome);
  }

  /** Those cancelled by their client are neither finished nor failed. */
  #report(outcome: string): void {
    const { telemetry } = this.host;
    if (telemetry === undefined || outcome === 'cancelled') return;
    const { promptTokens, cachedTokens, outputTokens, ttftMs, itlMs, disaggregation } = this.record;
    if (outcome === 'finished') telemetry.finished({ promptTokens, cachedTokens, outputTokens, ttftMs, itlMs, isRemote: disaggregation?.remote === true });
    else telemetry.failed();
  }
}

function newRecord(host: ExecutionHost, request: InferenceRequest): RequestRecord {
  return {
    requestId: request.id,
    model: host.model,
    ...(request.adapter === undefined ? {} : { adapter: request.adapter }),
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
    moves: [],
  };
}
