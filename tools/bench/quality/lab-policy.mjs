import { ActiveBlocks, KvIndex, OverlapColumns } from '@armature/router-kv';

/** The `kv` policy's parts around a cost function in plain JavaScript, to try costs: `cost(facts, i)` in blocks, lowest wins, ties by `tie(facts, i)`, then at random. */
export class LabPolicy {
  name = 'lab';
  supports = { deterministic: true };
  #index = new KvIndex();
  #active = new ActiveBlocks({ expiryMs: 1e12, maxRequests: 1e6, trackOutputBlocks: true });
  #overlap = new OverlapColumns();
  #shared = new OverlapColumns();
  #context;
  #cost;
  #tie;
  #state = new Map();
  #sequence = 0;

  constructor(context, cost, tie) {
    this.#context = context;
    this.#cost = cost;
    this.#tie = tie;
    this.kv = {
      joined: (slot) => {
        this.#index.joined(slot);
        this.#active.joined(slot);
        this.#state.set(slot, { routed: 0, routedBlocks: 0, last: 0, at: 0, prefills: new Map() });
      },
      left: (slot) => (this.#index.left(slot), this.#active.left(slot)),
      apply: (slot, event) => this.#index.apply(slot, event),
      reset: (slot) => this.#index.reset(slot),
    };
    this.load = {
      dispatched: (slot, request) => {
        this.#active.dispatched(slot, request, true, context.clock.nowMs());
        const state = this.#state.get(slot);
        state.routed++;
        state.last = ++this.#sequence;
        const uncached = Math.max(0, request.promptTokens / request.blockSize - this.#overlap.total[slot]);
        state.routedBlocks += uncached;
        state.prefills.set(request.id, { blocks: uncached, at: context.clock.nowMs() });
        this.facts.hits += this.#overlap.total[slot];
        this.facts.asked += request.blocks;
      },
      firstToken: (slot, id) => {
        this.#state.get(slot).prefills.delete(id);
        this.#active.firstToken(slot, id);
      },
      grown: (slot, id, tokens) => this.#active.grown(slot, id, tokens),
      ended: (slot, id) => {
        this.#state.get(slot).prefills.delete(id);
        this.#active.ended(slot, id);
      },
    };
    this.facts = { count: 0, hits: 0, asked: 1, o: [], sh: [], q: [], r: [], p: [], d: [], D: [], h: [], state: [] };
  }

  score(request, candidates, costs) {
    const f = this.facts;
    this.#index.findOverlap(request.sequenceHashes, request.blocks, this.#overlap);
    this.#active.findShared(request.sequenceHashes, request.blocks, this.#shared);
    f.count = candidates.count;
    f.P = request.promptTokens / request.blockSize;
    f.B = request.blockSize;
    f.now = this.#context.clock.nowMs();
    for (let i = 0; i < candidates.count; i++) {
      const slot = candidates.slots[i];
      f.o[i] = this.#overlap.total[slot];
      f.sh[i] = this.#shared.total[slot];
      f.q[i] = candidates.activePrefillTokens[i] / request.blockSize;
      f.r[i] = candidates.activeRequests[i];
      f.d[i] = this.#active.blocks(slot) + Math.ceil(f.P) - f.sh[i];
      f.D[i] = candidates.totalBlocks[i];
      f.h[i] = this.#index.held(slot);
      f.state[i] = this.#state.get(slot);
      f.p[i] = f.state[i].prefills.size;
      candidates.overlapBlocks[i] = f.o[i];
    }
    f.set = (i, overlap) => (candidates.overlapBlocks[i] = overlap);
    for (let i = 0; i < candidates.count; i++) costs[i] += this.#cost(f, i);
  }

  pick(_request, candidates, costs) {
    let best = -1;
    let ties = 1;
    for (let i = 0; i < candidates.count; i++) {
      if (best === -1 || costs[i] < costs[best] - 1e-9) {
        best = i;
        ties = 1;
        continue;
      }
      if (costs[i] > costs[best] + 1e-9) continue;
      const order = this.#tie === undefined ? 0 : this.#tie(this.facts, i) - this.#tie(this.facts, best);
      if (order < 0) (best = i), (ties = 1);
      else if (order === 0 && this.#context.random.below(++ties) === 0) best = i;
    }
    return best;
  }
}
