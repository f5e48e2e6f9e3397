import { ActiveBlocks, ExpectedWorkScorer, KvIndex, OverlapColumns, RecentShares } from '@armature/router-kv';

/** The `expected-work` scorer with the facts it needs, as a policy of its own: what the cost alone is worth, whatever else `kv` is composed of. */
export class ExpectedWorkPolicy {
  name = 'expected-work';
  supports = { deterministic: true };
  #index = new KvIndex();
  #active = new ActiveBlocks({ expiryMs: 1e12, maxRequests: 1e6, trackOutputBlocks: true });
  #shares = new RecentShares();
  #overlap = new OverlapColumns();
  #running = new OverlapColumns();
  #none = new Int32Array(1024);
  #excessShare = new Float64Array(1024);
  #decodeBlocks = new Float64Array(1024);
  #scorer;

  constructor(weights, clock) {
    this.#scorer = new ExpectedWorkScorer(weights);
    const [index, active, shares] = [this.#index, this.#active, this.#shares];
    this.kv = {
      joined: (slot, worker) => (index.joined(slot), active.joined(slot), shares.joined(slot, worker.role)),
      left: (slot) => (index.left(slot), active.left(slot), shares.left(slot)),
      apply: (slot, event) => index.apply(slot, event),
      reset: (slot) => index.reset(slot),
      restore: (slot, events, lastEventId) => index.restore(slot, events, lastEventId),
    };
    this.load = {
      dispatched: (slot, request) => (active.dispatched(slot, request, true, clock.nowMs()), shares.dispatched(slot)),
      firstToken: (slot, id) => active.firstToken(slot, id),
      grown: (slot, id, tokens) => active.grown(slot, id, tokens),
      ended: (slot, id) => active.ended(slot, id),
    };
  }

  score(request, candidates, costs) {
    const { slots, count } = candidates;
    this.#index.findOverlap(request.sequenceHashes, request.blocks, this.#overlap);
    this.#active.findShared(request.sequenceHashes, request.blocks, this.#running);
    this.#shares.fill(candidates, this.#excessShare);
    const requestBlocks = this.#active.requestBlocks(request);
    for (let i = 0; i < count; i++) {
      const running = this.#running.total[slots[i]] | 0;
      // What a request on its way there will have computed by the time this one runs counts as held: siblings stay together.
      candidates.overlapBlocks[i] = Math.max(this.#overlap.total[slots[i]] | 0, running);
      this.#decodeBlocks[i] = this.#active.blocks(slots[i]) + requestBlocks - running;
    }
    const none = this.#none;
    this.#scorer.score(request, { ...candidates, hostBlocks: none, diskBlocks: none, objectBlocks: none, decodeBlocks: this.#decodeBlocks, excessShare: this.#excessShare }, costs);
  }
}
