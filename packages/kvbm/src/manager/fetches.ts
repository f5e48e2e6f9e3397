import type { KvOperation } from '@armature/contracts';
import type { Agent } from '@armature/nixel';
import { promptRows } from './batches.ts';
import type { KvFetchRequest, KvFetchResult, KvPeer, KvPeerCalls } from './face.ts';
import { FetchJob } from './fetch-job.ts';
import { FetchJournal } from './fetch-journal.ts';
import type { BlockSource, HostLoads } from './host-loads.ts';
import type { LowerSources, TierSource } from './lower-sources.ts';
import type { ManagerParts } from './parts.ts';
import { PeerSource } from './peer-source.ts';
import { planFetch, waitLimitMs } from './plan.ts';
import type { FetchCandidate, FetchPlan, PlanInput } from './plan.ts';
import type { PrefillSpeed } from './prefill-speed.ts';
import { SourceCost } from './source-cost.ts';

const PROBE_DEADLINE_MS = 10_000;
/** What asking a shared store takes until it was measured. */
const ASK_PRIOR = { latencyMs: 20, bytesPerMs: Infinity };

export interface FetchesOptions {
  readonly parts: ManagerParts;
  readonly loads: HostLoads;
  readonly lower: LowerSources;
  readonly prefill: PrefillSpeed;
  readonly agent: Agent;
  readonly peers: KvPeerCalls | undefined;
  readonly layoutFingerprint: string;
  readonly onUsed: (hashes: Int32Array, deviceBlocks: number) => void;
}

const OVER: KvOperation = { cancel: () => undefined };

/** Fetch or recompute, for every request. */
export class Fetches {
  readonly #options: FetchesOptions;
  readonly #running = new Set<KvOperation>();
  readonly #askCost = new SourceCost(ASK_PRIOR);
  #probing: BlockSource | undefined = undefined;
  #onboardedBlocks = 0;
  #isClosed = false;

  constructor(options: FetchesOptions) {
    this.#options = options;
  }

  get running(): number {
    return this.#running.size;
  }

  get onboardedBlocks(): number {
    return this.#onboardedBlocks;
  }

  fetch(request: KvFetchRequest, done: (result: KvFetchResult) => void): KvOperation {
    const { parts } = this.#options;
    const startMs = parts.clock.nowMs();
    const pending = new Pending(done);
    const end = (result: KvFetchResult): void => {
      this.#running.delete(pending);
      this.#ended(request, result);
      pending.end(result);
    };
    this.#running.add(pending);
    this.#ask(request, startMs, pending, () => this.#begin(request, startMs, pending, end));
    return pending.isOver ? OVER : pending;
  }

  /** A request for which nothing is to be had. */
  passed(sequenceHashes: Int32Array, deviceBlocks: number): void {
    const { parts, onUsed } = this.#options;
    onUsed(sequenceHashes, deviceBlocks);
    parts.metrics.hits('device', deviceBlocks);
    parts.metrics.misses((sequenceHashes.length >> 1) - deviceBlocks);
  }

  cancelAll(): void {
    this.#isClosed = true;
    for (const operation of [...this.#running]) operation.cancel();
  }

  /** A store shared with others may hold more than is known here; asking is worth it when an answer fits into the time a fetch may take. */
  #ask(request: KvFetchRequest, startMs: number, pending: Pending, next: () => void): void {
    const { parts, lower } = this.#options;
    const { sequenceHashes } = request;
    const source = lower.all.find(({ store }) => store.probe !== undefined);
    const from = parts.kv.match(sequenceHashes);
    const rows = sequenceHashes.length >> 1;
    const known = from + parts.host.store.match(sequenceHashes, from);
    if (this.#isClosed || source === undefined || known >= rows || source.store.match(sequenceHashes, known) >= rows - known) return next();
    const limitMs = waitLimitMs(this.#input(request, from, []), from) / 2;
    const askMs = this.#askCost.predictMs(1);
    const isWaited = this.#options.prefill.isKnown && askMs < limitMs;
    const deadlineMs = isWaited ? limitMs : PROBE_DEADLINE_MS;
    if (!isWaited && parts.clock.nowMs() - this.#askCost.lastSampleMs < this.#askCost.probeIntervalMs) return next();
    this.#askCost.begin(1);
    let isAnswered = false;
    const asking = (source.store.probe as NonNullable<typeof source.store.probe>)(sequenceHashes, known, deadlineMs, () => {
      isAnswered = true;
      this.#askCost.end(1, startMs, parts.clock.nowMs(), 'done');
      if (isWaited) next();
    });
    if (!isWaited) return next();
    // Answered at once: what is to be cancelled by now is the fetch.
    if (!isAnswered) pending.operation = asking;
  }

  #begin(request: KvFetchRequest, startMs: number, pending: Pending, end: (result: KvFetchResult) => void): void {
    const { parts, loads, prefill, onUsed } = this.#options;
    const { sequenceHashes } = request;
    const firstRow = parts.kv.match(sequenceHashes);
    onUsed(sequenceHashes, firstRow);
    const input = this.#input(request, firstRow, this.#candidates(request));
    const isPossible = prefill.isKnown && !this.#isClosed && !pending.isCanceled;
    const plan: FetchPlan = isPossible ? planFetch(input) : { batches: [], declined: undefined };
    const { computeMs } = input;
    const journal = new FetchJournal({ firstRow, rows: input.rows, nowMs: () => parts.clock.nowMs(), computeMs, declined: plan.declined });
    if (plan.declined !== undefined) this.#probe(request, plan.declined.candidate, plan.declined.from, plan.declined.to);
    if (plan.batches.length === 0) {
      end({ reservation: undefined, readyTokens: 0, record: journal.close(firstRow) });
      return;
    }
    const sources = new Map(input.candidates.map((candidate) => [candidate, (candidate as Candidate).from]));
    const job = new FetchJob({
      parts,
      loads,
      request,
      batches: plan.batches,
      journal,
      sourceOf: ({ candidate }) => sources.get(candidate),
      waitLimitMs: (row) => waitLimitMs(input, row),
      startMs,
      done: end,
    });
    pending.operation = job;
    job.start();
  }

  #input(request: KvFetchRequest, firstRow: number, candidates: readonly FetchCandidate[]): PlanInput {
    const { parts, prefill } = this.#options;
    const { config, blockBytes, blockSize, costs } = parts;
    return {
      firstRow,
      rows: request.sequenceHashes.length >> 1,
      blockBytes,
      batchBlocks: config.batchBlocks,
      candidates,
      copy: costs.host,
      queueMs: prefill.isKnown ? prefill.computeMs(request.queuedTokens) : 0,
      // The last token is always computed: the engine needs its output.
      computeMs: (row) => (prefill.isKnown ? prefill.computeMs(Math.max(1, request.promptTokens - row * blockSize)) : 0),
      maxSlowdown: config.maxSlowdown,
      longestMs: Math.min(config.fetchDeadlineMs, request.deadlineMs),
    };
  }

  #candidates({ sequenceHashes, peers }: KvFetchRequest): Candidate[] {
    const { parts, lower } = this.#options;
    const { host, costs } = parts;
    const own = lower.all.map((source): Candidate => ({ source: source.name, cost: source.cost, from: source, held: (row) => (source.cost.isStuck ? 0 : source.store.match(sequenceHashes, row)) }));
    return [{ source: 'host', cost: costs.host, from: undefined, held: (row) => host.store.match(sequenceHashes, row) }, ...own, ...peers.flatMap((peer) => this.#peerCandidate(peer))];
  }

  #peerCandidate(peer: KvPeer): Candidate[] {
    const from = this.peerSource(peer);
    return from === undefined ? [] : [{ source: 'peer', cost: from.cost, peer, from, held: (row) => (from.cost.isStuck ? 0 : Math.max(0, peer.blocks - row)) }];
  }

  /** Undefined: its blocks mean nothing here, or it cannot be asked. */
  peerSource(peer: KvPeer): PeerSource | undefined {
    const { parts, agent, peers: calls, layoutFingerprint } = this.#options;
    if (calls === undefined || peer.layoutFingerprint !== layoutFingerprint) return undefined;
    const { clock, log, blockBytes, costs } = parts;
    return new PeerSource(peer, costs.peer(peer.instanceId), { agent, calls, clock, log, blockBytes });
  }

  /** One block in the background, into host memory: what was declined is measured again, and the next request may find it there. */
  #probe(request: KvFetchRequest, candidate: FetchCandidate, from: number, to: number): void {
    const { parts, loads } = this.#options;
    const { clock, tenants, config } = parts;
    const source = (candidate as Candidate).from;
    if (source === undefined || this.#probing !== undefined || this.#isClosed) return;
    if (clock.nowMs() - source.cost.lastSampleMs < source.cost.probeIntervalMs || source.cost.underWayBytes > 0) return;
    this.#probing = source;
    // Of different lengths, so that latency and bandwidth can be told apart.
    const rows = source.cost.samples % 2 === 0 ? Math.min(to - from, config.batchBlocks) : 1;
    loads.bring(promptRows(request.sequenceHashes, from, from + rows, tenants.numberOf(request.cacheSalt)), source, { urgency: 'background', deadlineMs: PROBE_DEADLINE_MS }, () => {
      this.#probing = undefined;
    });
  }

  #ended({ sequenceHashes }: KvFetchRequest, { record }: KvFetchResult): void {
    const { metrics } = this.#options.parts;
    let used = 0;
    for (const { source, outcome, blocks, tookMs } of record.runs) {
      metrics.run(source, outcome);
      if (source === 'recompute' || (source !== 'device' && tookMs === undefined)) continue;
      metrics.hits(source, blocks);
      used += blocks;
    }
    this.#onboardedBlocks += record.onboardedBlocks;
    metrics.misses((sequenceHashes.length >> 1) - used);
    if (record.waitedMs > 0) metrics.waited(record.waitedMs);
  }
}

/** `from` undefined: the host tier itself. */
interface Candidate extends FetchCandidate {
  readonly from: BlockSource | TierSource | undefined;
}

/** One call of `fetch`, whatever it is waiting for. */
class Pending implements KvOperation {
  readonly #done: (result: KvFetchResult) => void;
  operation: KvOperation | undefined = undefined;
  isOver = false;
  isCanceled = false;

  constructor(done: (result: KvFetchResult) => void) {
    this.#done = done;
  }

  /** What is being asked or fetched ends, and with it the call. */
  cancel(): void {
    this.isCanceled = true;
    this.operation?.cancel();
  }

  end(result: KvFetchResult): void {
    if (this.isOver) return;
    this.isOver = true;
    this.#done(result);
  }
}
