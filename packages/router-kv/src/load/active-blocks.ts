// @hot
import type { OverlapColumns } from '../overlap.ts';
import { MARK_WORDS, NONE, RunTree, VALUE } from '../prefix/run-tree.ts';

/** What is accounted for of a request; a `RoutingRequest` is one, and so is what another router says of a request it sent. */
export interface LoadRequest {
  /** Unique per worker. Requests of other routers want a prefix that names the router. */
  readonly id: string;
  readonly promptTokens: number;
  /** Sequence hashes of the complete prompt blocks, copied. */
  readonly sequenceHashes: Int32Array;
  readonly blocks: number;
  readonly blockSize: number;
  /** Prompt tokens that the worker has to compute; left out = all of them. */
  readonly prefillTokens?: number;
}

export interface ActiveBlocksOptions {
  /** A request unheard of for this long is given up. */
  readonly expiryMs: number;
  /** Requests tracked at most; further ones are not accounted for (counted). */
  readonly maxRequests: number;
  /** Count partial and output blocks; else complete prompt blocks only. */
  readonly trackOutputBlocks: boolean;
}

// Words of a request.
const SLOT = 0;
/** Run of the tree in which its shared blocks end, NONE without any. */
const RUN = 1;
const SHARED = 2;
/** Blocks that no other request shares: output, partial block, or all of them. */
const PRIVATE = 3;
const PROMPT_TOKENS = 4;
const BLOCK_SIZE = 5;
/** Prompt tokens charged until the first token. */
const PREFILL = 6;
/** Something was heard of it since the last look: it gets a second chance. */
const HEARD = 7;
/** Neighbours in the queue of requests by expiry. */
const OLDER = 8;
const NEWER = 9;
/** Another worker's request with the same id; of a free one the next free one. */
const SAME_ID = 10;
const WORDS = 12;

/**
 * KV blocks, requests and waiting prefill of the routed requests on each worker, blocks shared by requests of one worker counted
 * once. All prompt blocks of an active request are held, so what a request shares with a worker is always a prefix: use is counted
 * per run of a prefix tree, and a dispatch costs what its runs cost plus one copy of its hashes.
 */
export class ActiveBlocks {
  readonly #options: ActiveBlocksOptions;
  readonly #tree: RunTree;
  /** First request of an id. */
  readonly #byId: Map<string, number>;
  readonly #ids: string[];
  #requests: Int32Array;
  #expiresAtMs: Float64Array;
  #oldest: number;
  #newest: number;
  #free: number;
  #next: number;
  #tracked: number;
  #expired: number;
  #untracked: number;
  /** By slot. */
  #isJoined: Uint8Array;
  #blocks: Float64Array;
  #prefillTokens: Float64Array;
  #activeRequests: Int32Array;

  constructor(options: ActiveBlocksOptions) {
    this.#options = options;
    this.#tree = new RunTree({ cut: (upper, lower) => this.#cut(upper, lower) });
    this.#byId = new Map();
    this.#ids = [];
    this.#requests = new Int32Array(64 * WORDS);
    this.#expiresAtMs = new Float64Array(64);
    this.#oldest = NONE;
    this.#newest = NONE;
    this.#free = NONE;
    this.#next = 0;
    this.#tracked = 0;
    this.#expired = 0;
    this.#untracked = 0;
    this.#isJoined = new Uint8Array(32);
    this.#blocks = new Float64Array(32);
    this.#prefillTokens = new Float64Array(32);
    this.#activeRequests = new Int32Array(32);
  }

  /** Tracked requests. */
  get requests(): number {
    return this.#tracked;
  }

  /** Requests given up because their end was never heard of. */
  get expired(): number {
    return this.#expired;
  }

  /** Requests not accounted for because of `maxRequests`. */
  get untracked(): number {
    return this.#untracked;
  }

  /** Distinct shared blocks over all workers. */
  get distinctBlocks(): number {
    return this.#tree.blocks;
  }

  /** Requests of which a part of the hashes contradicts another request's; those blocks count as their own. */
  get conflicts(): number {
    return this.#tree.conflicts;
  }

  /** Bytes of tables and hashes, without request ids. */
  get memoryBytes(): number {
    return this.#tree.bytes + this.#requests.byteLength + this.#expiresAtMs.byteLength;
  }

  /** Blocks in use on a worker: distinct shared ones plus private ones. */
  blocks(slot: number): number {
    return this.#has(slot) ? this.#blocks[slot] : 0;
  }

  /** `into[i]` = blocks of `slots[i]` and `more`. */
  addBlocks(slots: Int32Array, count: number, more: number, into: Float64Array): void {
    for (let i = 0; i < count; i++) into[i] = this.blocks(slots[i]) + more;
  }

  /** Prompt tokens of a worker's requests that have not answered yet. */
  prefillTokens(slot: number): number {
    return this.#has(slot) ? this.#prefillTokens[slot] : 0;
  }

  activeRequests(slot: number): number {
    return this.#has(slot) ? this.#activeRequests[slot] : 0;
  }

  joined(slot: number): void {
    this.left(slot);
    if (slot >= this.#isJoined.length) this.#growSlots(slot + 1);
    this.#isJoined[slot] = 1;
  }

  left(slot: number): void {
    if (!this.#has(slot)) return;
    for (let request = this.#oldest; request !== NONE; ) {
      const newer = this.#requests[request * WORDS + NEWER];
      if (this.#requests[request * WORDS + SLOT] === slot) this.#release(request);
      request = newer;
    }
    this.#isJoined[slot] = 0;
  }

  /** Leading blocks of a request that active requests of each worker use already, into `out.total` and `out.found`. Allocates nothing. */
  findShared(hashes: Int32Array, blocks: number, out: OverlapColumns): void {
    const tree = this.#tree;
    out.begin(this.#isJoined.length);
    const { total, found } = out;
    let above = NONE;
    let at = 0;
    while (at < blocks) {
      const run = tree.child(above, hashes, at);
      if (run === NONE) return;
      const shared = tree.match(run, hashes, at, blocks);
      for (let mark = tree.firstMark(run); mark !== NONE; mark = tree.nextMark(mark)) {
        const slot = tree.slotOf(mark);
        if (total[slot] === 0) found[out.count++] = slot;
        total[slot] = at + shared;
      }
      if (shared < tree.lengthOf(run)) return;
      at += shared;
      above = run;
    }
  }

  /** Blocks a request occupies on an idle worker. */
  requestBlocks(request: LoadRequest): number {
    return this.#options.trackOutputBlocks ? Math.ceil(request.promptTokens / request.blockSize) : request.blocks;
  }

  /**
   * A request was sent to a worker, by this router or another. `shares` false: its blocks are its own, as Dynamo does on the decode
   * hop without KV reuse. The same id on the same worker replaces what it had.
   */
  dispatched(slot: number, request: LoadRequest, shares: boolean, nowMs: number): void {
    if (!this.#has(slot)) return;
    this.ended(slot, request.id);
    if (this.#tracked >= this.#options.maxRequests) {
      this.#untracked++;
      return;
    }
    const number = this.#newRequest(request.id);
    const at = number * WORDS;
    const run = shares ? this.#tree.insert(request.sequenceHashes, Math.min(request.blocks, request.sequenceHashes.length >> 1)) : NONE;
    this.#use(slot, run);
    const requests = this.#requests;
    requests[at + SLOT] = slot;
    requests[at + RUN] = run;
    requests[at + SHARED] = run === NONE ? 0 : this.#tree.covered;
    requests[at + PRIVATE] = 0;
    requests[at + PROMPT_TOKENS] = request.promptTokens;
    requests[at + BLOCK_SIZE] = request.blockSize;
    requests[at + PREFILL] = request.prefillTokens ?? request.promptTokens;
    requests[at + HEARD] = 0;
    this.#prefillTokens[slot] += requests[at + PREFILL];
    this.#activeRequests[slot]++;
    this.#tracked++;
    this.#setPrivate(number, this.requestBlocks(request) - requests[at + SHARED]);
    this.#append(number, nowMs);
  }

  /** Its prefill is done. Unknown requests (expired, untracked, ended before) are ignored, here and below. */
  firstToken(slot: number, requestId: string): void {
    const request = this.#find(slot, requestId);
    if (request === NONE) return;
    this.#requests[request * WORDS + HEARD] = 1;
    this.#dischargePrefill(request);
  }

  /** Its output has grown to `tokens`. */
  grown(slot: number, requestId: string, tokens: number): void {
    const request = this.#find(slot, requestId);
    if (request === NONE) return;
    const at = request * WORDS;
    this.#requests[at + HEARD] = 1;
    if (!this.#options.trackOutputBlocks) return;
    const all = Math.ceil((this.#requests[at + PROMPT_TOKENS] + tokens) / this.#requests[at + BLOCK_SIZE]);
    this.#setPrivate(request, all - this.#requests[at + SHARED]);
  }

  ended(slot: number, requestId: string): void {
    const request = this.#find(slot, requestId);
    if (request !== NONE) this.#release(request);
  }

  /** Gives up requests past their expiry that were not heard of since the last look. Looks at no others. */
  expire(nowMs: number): number {
    let count = 0;
    for (let request = this.#oldest; request !== NONE && this.#expiresAtMs[request] <= nowMs; request = this.#oldest) {
      if (this.#requests[request * WORDS + HEARD] === 1) {
        this.#requests[request * WORDS + HEARD] = 0;
        this.#unlink(request);
        this.#append(request, nowMs);
        continue;
      }
      this.#release(request);
      count++;
    }
    this.#expired += count;
    return count;
  }

  /** One more request of the worker uses the blocks up to the end of `run`. */
  #use(slot: number, run: number): void {
    const tree = this.#tree;
    for (; run !== NONE; run = tree.parentOf(run)) {
      let mark = tree.mark(run, slot);
      if (mark === NONE) {
        mark = tree.addMark(run, slot);
        this.#blocks[slot] += tree.lengthOf(run);
      }
      tree.marks[mark * MARK_WORDS + VALUE]++;
    }
  }

  #cut(upper: number, lower: number): void {
    const tree = this.#tree;
    for (let mark = tree.firstMark(lower); mark !== NONE; mark = tree.nextMark(mark)) {
      const copy = tree.addMark(upper, tree.slotOf(mark));
      tree.marks[copy * MARK_WORDS + VALUE] = tree.marks[mark * MARK_WORDS + VALUE];
    }
  }

  #setPrivate(request: number, blocks: number): void {
    const at = request * WORDS;
    const next = Math.max(0, blocks) | 0; // a block size of 0 must not leave an infinity behind
    this.#blocks[this.#requests[at + SLOT]] += next - this.#requests[at + PRIVATE];
    this.#requests[at + PRIVATE] = next;
  }

  #dischargePrefill(request: number): void {
    const at = request * WORDS;
    this.#prefillTokens[this.#requests[at + SLOT]] -= this.#requests[at + PREFILL];
    this.#requests[at + PREFILL] = 0;
  }

  #release(request: number): void {
    const tree = this.#tree;
    const slot = this.#requests[request * WORDS + SLOT];
    for (let run = this.#requests[request * WORDS + RUN]; run !== NONE; ) {
      const above = tree.parentOf(run);
      const mark = tree.mark(run, slot);
      if (--tree.marks[mark * MARK_WORDS + VALUE] === 0) {
        this.#blocks[slot] -= tree.lengthOf(run);
        tree.removeMark(mark);
      }
      run = above;
    }
    this.#setPrivate(request, 0);
    this.#dischargePrefill(request);
    this.#activeRequests[slot]--;
    this.#tracked--;
    this.#unlink(request);
    this.#forget(request);
  }

  #has(slot: number): boolean {
    return slot >= 0 && slot < this.#isJoined.length && this.#isJoined[slot] === 1;
  }

  #find(slot: number, id: string): number {
    let request = this.#byId.get(id) ?? NONE;
    while (request !== NONE && this.#requests[request * WORDS + SLOT] !== slot) request = this.#requests[request * WORDS + SAME_ID];
    return request;
  }

  #newRequest(id: string): number {
    let request = this.#free;
    if (request === NONE) {
      request = this.#next++;
      if (request >= this.#expiresAtMs.length) this.#growRequests();
    } else this.#free = this.#requests[request * WORDS + SAME_ID];
    this.#requests[request * WORDS + SAME_ID] = this.#byId.get(id) ?? NONE;
    this.#byId.set(id, request);
    this.#ids[request] = id;
    return request;
  }

  #forget(request: number): void {
    const id = this.#ids[request];
    const next = this.#requests[request * WORDS + SAME_ID];
    let before = this.#byId.get(id) as number;
    if (before === request) {
      if (next === NONE) this.#byId.delete(id);
      else this.#byId.set(id, next);
    } else {
      while (this.#requests[before * WORDS + SAME_ID] !== request) before = this.#requests[before * WORDS + SAME_ID];
      this.#requests[before * WORDS + SAME_ID] = next;
    }
    this.#ids[request] = '';
    this.#requests[request * WORDS + SAME_ID] = this.#free;
    this.#free = request;
  }

  #append(request: number, nowMs: number): void {
    const at = request * WORDS;
    this.#expiresAtMs[request] = nowMs + this.#options.expiryMs;
    this.#requests[at + OLDER] = this.#newest;
    this.#requests[at + NEWER] = NONE;
    if (this.#newest === NONE) this.#oldest = request;
    else this.#requests[this.#newest * WORDS + NEWER] = request;
    this.#newest = request;
  }

  #unlink(request: number): void {
    const older = this.#requests[request * WORDS + OLDER];
    const newer = this.#requests[request * WORDS + NEWER];
    if (older === NONE) this.#oldest = newer;
    else this.#requests[older * WORDS + NEWER] = newer;
    if (newer === NONE) this.#newest = older;
    else this.#requests[newer * WORDS + OLDER] = older;
  }

  #growRequests(): void {
    const requests = new Int32Array(this.#requests.length * 2);
    requests.set(this.#requests);
    this.#requests = requests;
    const expiresAtMs = new Float64Array(this.#expiresAtMs.length * 2);
    expiresAtMs.set(this.#expiresAtMs);
    this.#expiresAtMs = expiresAtMs;
  }

  #growSlots(slots: number): void {
    const capacity = Math.max(slots, this.#isJoined.length * 2);
    const isJoined = new Uint8Array(capacity);
    const blocks = new Float64Array(capacity);
    const prefillTokens = new Float64Array(capacity);
    const activeRequests = new Int32Array(capacity);
    isJoined.set(this.#isJoined);
    blocks.set(this.#blocks);
    prefillTokens.set(this.#prefillTokens);
    activeRequests.set(this.#activeRequests);
    this.#isJoined = isJoined;
    this.#blocks = blocks;
    this.#prefillTokens = prefillTokens;
    this.#activeRequests = activeRequests;
  }
}
