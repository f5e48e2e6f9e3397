import { ArmatureError, FinishCode } from '@armature/contracts';
import type { ErrorData, PlainData, PlaneMessage, PrefillHandover, RoutingHop, TokenBatch } from '@armature/contracts';
import { Method, numberField, parseFetched, parseHandover, pullSourceOf, requestMessage, tokensFrom } from '../messages.ts';
import type { MoveRecord } from '../routing/records.ts';
import { callUnary } from '../worker/unary.ts';
import type { AttemptOwner, AttemptSetup } from './attempt-owner.ts';
import { ChoiceRows } from './choice-rows.ts';
import { deadlineError, decodeMovedError, incompleteError, neverBegan } from './failures.ts';
import { HopWatch } from './hop-watch.ts';
import { peersOf } from './kv-peers.ts';
import type { Leg, LegListener } from './leg.ts';
import { LegOpener } from './leg-opener.ts';
import type { LegCall } from './leg-opener.ts';
import { Placement } from './placement.ts';
import type { Routed, Share } from './placement.ts';

const LEASE_CALL_TIMEOUT_MS = 1_000;

/**
 * One share of a request in one place, until its end or until its worker is lost.
 *
 * Aggregated: one `main` leg (full). Disaggregated: a `prefill` leg on P; at its first progress a `main` leg on D that pulls the KV; at the end of P the
 * `start` message with the first tokens. A D that is lost before it has the KV is replaced by another one while P holds it.
 */
export class Attempt implements LegListener {
  readonly id: string;
  readonly share: Share;
  readonly placement: Placement;
  readonly hops: HopWatch;
  depth: number;
  move: MoveRecord | undefined;
  /** Its wait for a worker ends then, however often it is woken. */
  waitsUntilMs: number | undefined = undefined;
  readonly #owner: AttemptOwner;
  readonly #rows: ChoiceRows | undefined;
  readonly #legs: LegOpener;
  #outputTokens: number;
  #main: Leg | undefined = undefined;
  #prefill: Leg | undefined = undefined;
  /** Decode worker chosen while prefill runs. */
  #decode: Routed | undefined = undefined;
  #handover: PrefillHandover | undefined = undefined;
  #firstTokens: Int32Array | undefined = undefined;
  #hasPrefilled = false;
  #hasTransferred = false;
  /** The prefill worker is asked whether it still holds the KV. */
  #isAsking = false;
  #isClosed = false;

  constructor(owner: AttemptOwner, { share, depth, move }: AttemptSetup) {
    const { host, request, record, startedAtMs, excluded } = owner;
    this.#owner = owner;
    this.id = host.nextRunId();
    this.share = share;
    this.depth = depth;
    this.move = move;
    this.#outputTokens = share.replayed;
    this.#rows = share.choices < request.choices ? new ChoiceRows(share.firstChoice) : undefined;
    this.hops = new HopWatch(host);
    this.#legs = new LegOpener(owner, this);
    this.placement = new Placement({ host, request, record, id: this.id, share, startedAtMs, excluded, waits: (role, uncached) => owner.waits(role, uncached) });
  }

  /** Chooses workers and opens the first leg. What a policy throws ends the request, not its caller. */
  place(): void {
    try {
      const placed = this.placement.choose();
      if (placed.type === 'refused') this.#fail(undefined, placed.error);
      else if (placed.type === 'full') this.#openFull(placed.main, placed.hop);
      else if (placed.type === 'split') this.#openPrefill(placed.prefill, placed.decode);
    } catch (error) {
      this.#fail(undefined, ArmatureError.from(error, 'SERVING_PLACEMENT_FAILED').toData());
    }
  }

  /** Takes back every charge, closes every stream, gives up the lease. Nothing is heard of it any more. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const leg of [this.#prefill, this.#main]) {
      if (leg === undefined) continue;
      if (!leg.isComplete) leg.cancel(); // a complete leg's stream ends by itself
      this.#discharge(leg);
    }
    this.#releaseLease();
  }

  // ---------------------------------------------------------------- legs

  #openFull(main: Routed, hop: RoutingHop): void {
    const { host, request } = this.#owner;
    const { blockSize, metrics, router, deadlines } = host;
    const { route, query } = main;
    if (hop === 'aggregated' && query.role === 'decode') metrics.localPrefills.inc();
    this.#owner.computes(this.share, route);
    this.#owner.expectCached(blockSize * Math.min(route.overlapBlocks, Math.floor((request.promptTokenIds.length - 1) / blockSize)));
    const leg = this.#legs.newLeg('main', main, hop);
    this.#main = leg;
    this.hops.local(this.placement.predictedMs);
    this.#launch(leg, { method: Method.Generate, message: requestMessage(this.#legs.engineRequest('full'), peersOf(route, router.table)), silentMs: deadlines.firstTokenMs });
  }

  #openPrefill(prefill: Routed, decode: Routed): void {
    const { metrics, router, deadlines } = this.#owner.host;
    metrics.remotePrefills.inc();
    this.#owner.computes(this.share, prefill.route);
    this.#decode = decode;
    const leg = this.#legs.newLeg('prefill', prefill, 'prefill');
    this.#prefill = leg;
    this.hops.remote(this.placement.predictedMs);
    this.#launch(leg, { method: Method.Generate, message: requestMessage(this.#legs.engineRequest('prefill'), peersOf(prefill.route, router.table, decode.route)), silentMs: deadlines.prefillMs });
  }

  #openDecode(): void {
    const chosen = this.#decode;
    const prefill = this.#prefill;
    const handover = this.#handover;
    if (chosen === undefined || prefill === undefined || this.#isAsking) return;
    const leg = this.#legs.newLeg('main', chosen, 'decode');
    this.#main = leg;
    this.#owner.record.transfer = { from: prefill.worker.instanceId, to: leg.worker.instanceId, matchedBlocks: 0, movedBlocks: 0, movedBytes: 0, durationMs: 0, outcome: 'running' };
    const request = this.#legs.engineRequest('decode');
    const { deadlines } = this.#owner.host;
    if (handover?.params !== undefined) {
      this.#launch(leg, { method: Method.Generate, message: requestMessage({ ...request, firstTokens: this.#firstTokens }, { opaqueSource: handover.params as PlaneMessage }), silentMs: deadlines.firstTokenMs });
      return;
    }
    this.#launch(leg, { method: Method.Decode, message: requestMessage(request, { source: pullSourceOf(prefill.worker) as unknown as PlainData }), silentMs: 0 }); // it waits for P
    if (this.#main !== leg) return; // lost already
    if (handover !== undefined) leg.send(progressOf(handover));
    if (this.#hasPrefilled) this.#start();
  }

  #launch(leg: Leg, call: LegCall): void {
    if (!this.#legs.open(leg, call)) this.#fail(leg, deadlineError(this.#owner.request.deadlineMs, leg.arrow));
  }

  // ---------------------------------------------------------------- messages

  legMessage(leg: Leg, message: PlaneMessage): void {
    if (leg.isComplete) return; // nothing counts after the terminal message
    try {
      switch (message.type) {
        case 'tokens':
          this.#onTokens(leg, tokensFrom(message));
          break;
        case 'prefilled':
          this.#onPrefilled(parseHandover(message));
          break;
        case 'transferred':
          this.#onTransferred(leg, message);
          break;
        case 'fetched':
          this.#owner.record.kv = parseFetched(message);
          break;
        case 'end':
          this.#onEnd(leg, message);
          break;
        default:
          break; // a newer worker may say more
      }
    } catch (error) {
      this.#fail(leg, ArmatureError.from(error, 'SERVING_MESSAGE_INVALID').toData());
    }
  }

  #onTokens(leg: Leg, batch: TokenBatch): void {
    const { host } = this.#owner;
    if (leg.kind === 'prefill') {
      if (leg.worker.firstToken === 'decode') return; // sampled to end the prefill only; never shown
      this.#keepFirstTokens(batch);
    }
    if (!leg.hasTokens) {
      leg.hasTokens = true;
      if (leg.kind === 'main') {
        leg.expect('decode', host.deadlines.interTokenMs);
        if (this.#prefill === undefined) this.hops.localDone(leg.heardAtMs);
      }
      host.router.prefilled(leg.charge, this.id);
      host.admission?.capacityChanged();
    }
    const before = this.#outputTokens;
    this.#outputTokens = before + batch.count;
    this.#chargeGrowth(leg, before);
    this.#owner.tokens(this, this.#rows === undefined ? batch : this.#rows.of(batch), leg.heardAtMs);
  }

  #keepFirstTokens(batch: TokenBatch): void {
    this.#firstTokens ??= new Int32Array(this.share.choices).fill(-1);
    for (let i = 0; i < batch.count; i++) {
      if (batch.finish[i] === FinishCode.None) this.#firstTokens[batch.choices?.[i] ?? 0] = batch.tokenIds[i];
    }
  }

  #chargeGrowth({ charge }: Leg, before: number): void {
    const { host, request } = this.#owner;
    const { blockSize, router } = host;
    const start = request.promptTokenIds.length;
    const blocks = Math.ceil((start + this.#outputTokens) / blockSize) - Math.ceil((start + before) / blockSize);
    if (blocks > 0) router.grown(charge, this.id, this.#outputTokens - this.share.replayed, blocks);
  }

  /** P computes or has computed. The first word of it brings D in. */
  #onPrefilled(handover: PrefillHandover): void {
    this.#handover = handover;
    this.#owner.cached(handover.cachedTokens);
    if (handover.params !== undefined) return; // the engine's own lease: D is opened when P has ended
    if (this.#main === undefined) this.#openDecode();
    else this.#main.send(progressOf(handover));
  }

  #onTransferred(leg: Leg, message: PlaneMessage): void {
    const transfer = this.#owner.record.transfer;
    if (transfer === undefined) return;
    transfer.matchedBlocks = numberField(message, 'matchedBlocks');
    transfer.movedBlocks = numberField(message, 'movedBlocks');
    transfer.movedBytes = numberField(message, 'movedBytes');
    transfer.durationMs = numberField(message, 'durationMs');
    transfer.outcome = String(message['outcome']);
    this.#hasTransferred = true;
    if (transfer.outcome === 'valid') this.hops.transferred(transfer.movedBlocks, leg.heardAtMs);
    leg.expect('first token', this.#owner.host.deadlines.firstTokenMs);
  }

  #onEnd(leg: Leg, message: PlaneMessage): void {
    const { router } = this.#owner.host;
    leg.isComplete = true;
    leg.expect(leg.arrow, 0);
    const eventId = numberField(message, 'eventId');
    if (leg.kind === 'main') {
      if (this.#prefill === undefined) this.#owner.cached(Math.min(this.#owner.request.promptTokenIds.length, numberField(message, 'cachedTokens')));
      router.whenApplied(leg.slot, eventId, () => this.#end());
      return;
    }
    this.#discharge(leg);
    this.hops.prefillEnded(leg.heardAtMs);
    router.whenApplied(leg.slot, eventId, () => this.#prefillEnded());
  }

  /** The prompt is computed: D goes on, unless the first token was the last. */
  #prefillEnded(): void {
    if (this.#isClosed) return;
    this.#hasPrefilled = true;
    if (!this.#owner.isOpen(this.share)) this.#end();
    else if (this.#main === undefined) this.#openDecode();
    else if (this.#handover?.params === undefined) this.#start();
  }

  #start(): void {
    const { request, host } = this.#owner;
    this.#main?.expect('transfer', host.deadlines.transferMs);
    this.#main?.send({ type: 'start', promptTokens: request.promptTokenIds.length, firstTokens: this.#firstTokens });
  }

  // ---------------------------------------------------------------- failure and end

  legClosed(leg: Leg, error: ErrorData | undefined): void {
    if (this.#isClosed || leg.isComplete) return;
    if (!this.#owner.isOpen(this.share)) {
      this.#end(); // every choice has had its last token: only the worker's goodbye is missing
      return;
    }
    const failure = error ?? incompleteError(leg.worker.instanceId);
    if (failure.code === 'PLANE_DEADLINE_EXCEEDED') this.#fail(leg, deadlineError(this.#owner.request.deadlineMs, leg.arrow));
    else if (leg !== this.#main || !this.#replaceDecode(leg, failure)) this.#fail(leg, failure);
  }

  /** D is lost, and P may hold all that D was to read: ask, then put another D in its place. False: there is nothing to hold on to. */
  #replaceDecode(leg: Leg, failure: ErrorData): boolean {
    const { host } = this.#owner;
    const prefill = this.#prefill;
    const lease = this.#handover?.lease ?? 0;
    if (prefill === undefined || lease === 0 || this.#hasTransferred || leg.hasTokens) return false;
    const move = this.#owner.leaveDecode(this, leg, failure);
    if (move === undefined) return false;
    leg.cancel(decodeMovedError);
    this.#discharge(leg);
    this.#main = undefined;
    this.#isAsking = true;
    const message = { type: 'lease', lease, ttlMs: host.leaseTtlMs };
    callUnary(host.requests, prefill.worker.address, { method: Method.RenewLease, message, deadlineMs: LEASE_CALL_TIMEOUT_MS }, (answer) => {
      this.#isAsking = false;
      if (this.#isClosed) return;
      const decode = answer?.['valid'] === true ? this.placement.decodeAgain(prefill.worker) : undefined;
      if (decode === undefined) {
        this.#fail(leg, failure);
        return;
      }
      this.move = move;
      this.depth += neverBegan(failure) ? 0 : 1;
      this.hops.disturbed();
      this.#owner.record.moves.push(move);
      host.metrics.decodeReattached.inc();
      this.#decode = decode;
      this.#openDecode();
    });
    return true;
  }

  /** Without a decode leg nobody else would; with one, the decode worker does it when its stream closes. An unfinished prefill's lease ends with its leg. */
  #releaseLease(): void {
    const lease = this.#handover?.lease ?? 0;
    const prefill = this.#prefill;
    if (lease === 0 || this.#hasTransferred || prefill === undefined || prefill.isLost || (this.#main !== undefined && !this.#main.isLost)) return;
    callUnary(this.#owner.host.requests, prefill.worker.address, { method: Method.ReleaseLease, message: { type: 'lease', lease }, deadlineMs: LEASE_CALL_TIMEOUT_MS }, () => undefined);
  }

  #discharge(leg: Leg): void {
    if (!leg.isCharged) return;
    leg.isCharged = false;
    this.#owner.host.router.ended(leg.charge, this.id);
    this.#owner.host.admission?.capacityChanged();
  }

  #end(): void {
    if (this.#isClosed) return;
    this.close();
    this.#owner.attemptEnded(this);
  }

  #fail(leg: Leg | undefined, error: ErrorData): void {
    if (this.#isClosed) return;
    if (leg !== undefined || this.#main !== undefined || this.#prefill !== undefined) this.close();
    this.#owner.attemptFailed(this, leg, error);
  }
}

function progressOf({ lease, blocks, tokens, cachedTokens }: PrefillHandover): PlaneMessage {
  return { type: 'prefilled', lease, blocks, tokens, cachedTokens };
}
