import type { Candidates, KvFollower, LoadFollower, RouterFilter, RouterPicker, RouterPolicy, RouterScorer, RoutingRequest } from '@armature/contracts';
import type { KvFacts } from '../facts/kv-facts.ts';

export interface WeightedScorer {
  readonly scorer: RouterScorer;
  readonly weight: number;
}

export interface PipelineOptions {
  readonly name: string;
  readonly facts: KvFacts;
  readonly filters: readonly RouterFilter[];
  readonly scorers: readonly WeightedScorer[];
  readonly picker: RouterPicker;
  /** A piece threw or wrote NaN; it was left out of one decision. */
  readonly failed: (piece: string, reason: string) => void;
}

/** Facts → filters → scorers → picker. A piece that fails is left out of the decision, not the decision. */
export class PipelinePolicy implements RouterPolicy {
  readonly name: string;
  readonly supports = { deterministic: true };
  readonly parts: { readonly names: readonly string[]; costs: Float64Array };
  readonly kv: KvFollower;
  readonly load: LoadFollower;
  readonly #facts: KvFacts;
  readonly #filters: readonly RouterFilter[];
  readonly #scorers: readonly WeightedScorer[];
  readonly #picker: RouterPicker;
  readonly #failed: (piece: string, reason: string) => void;
  #excluded: Uint8Array;
  #before: Float64Array;
  /** By scorer: leading rows of `parts` in which it is known to stand as 0. */
  readonly #zeroRows: Int32Array;
  #problem: string | undefined;

  constructor(options: PipelineOptions) {
    this.name = options.name;
    this.#facts = options.facts;
    this.#filters = options.filters;
    this.#scorers = options.scorers;
    this.#picker = options.picker;
    this.#failed = options.failed;
    this.#excluded = new Uint8Array(64);
    this.#before = new Float64Array(64);
    this.#problem = undefined;
    this.#zeroRows = new Int32Array(options.scorers.length).fill(64);
    this.parts = { names: options.scorers.map(({ scorer }) => scorer.name), costs: new Float64Array(64 * options.scorers.length) };
    this.kv = options.facts.kv;
    this.load = options.facts.load;
  }

  close(): void {
    this.#facts.close();
  }

  score(request: RoutingRequest, candidates: Candidates, costs: Float64Array): void {
    this.#facts.collect(request, candidates);
    this.rescore(request, candidates, costs);
  }

  /** As `score`, on the facts that are in the columns already. */
  rescore(request: RoutingRequest, candidates: Candidates, costs: Float64Array): void {
    this.#problem = undefined;
    if (candidates.count > this.#before.length) this.#grow(candidates.count);
    for (let f = 0; f < this.#filters.length; f++) this.#filter(this.#filters[f], request, candidates, costs);
    for (let s = 0; s < this.#scorers.length; s++) this.#score(s, request, candidates, costs);
  }

  pick(request: RoutingRequest, candidates: Candidates, costs: Float64Array): number {
    return this.#picker.pick(request, candidates, costs);
  }

  problem(): string | undefined {
    return this.#problem;
  }

  /** The first scorer's terms by their own names, those of the others as `scorer.term`. */
  explain(request: RoutingRequest, candidates: Candidates, index: number): Record<string, number> {
    const terms: Record<string, number> = {};
    this.#scorers.forEach(({ scorer }, s) => {
      const own = scorer.explain?.(request, candidates, index) ?? {};
      for (const [name, value] of Object.entries(own)) terms[s === 0 ? name : `${scorer.name}.${name}`] = value;
    });
    return terms;
  }

  #filter(filter: RouterFilter, request: RoutingRequest, candidates: Candidates, costs: Float64Array): void {
    if (!this.#applies(filter, request)) return;
    const { count } = candidates;
    this.#excluded.fill(0, 0, count);
    try {
      filter.filter(request, candidates, this.#excluded);
    } catch (error) {
      this.#fail(filter.name, `threw: ${String(error)}`);
      return;
    }
    for (let i = 0; i < count; i++) if (this.#excluded[i] !== 0) costs[i] = Number.POSITIVE_INFINITY;
  }

  #score(s: number, request: RoutingRequest, candidates: Candidates, costs: Float64Array): void {
    const { scorer, weight } = this.#scorers[s];
    const { count } = candidates;
    if (!this.#applies(scorer, request)) {
      this.#zero(s, count);
      return;
    }
    this.#zeroRows[s] = 0;
    const before = this.#before;
    const parts = this.parts.costs;
    const width = this.#scorers.length;
    for (let i = 0; i < count; i++) before[i] = costs[i];
    let fault: string | undefined;
    try {
      scorer.score(request, candidates, costs);
    } catch (error) {
      fault = `threw: ${String(error)}`;
    }
    for (let i = 0; i < count && fault === undefined; i++) {
      if (costs[i] !== costs[i] || costs[i] === Number.NEGATIVE_INFINITY) fault = `cost of candidate ${i} is ${costs[i]}`;
    }
    for (let i = 0; i < count; i++) {
      const was = before[i];
      if (fault !== undefined || was === Number.POSITIVE_INFINITY) {
        costs[i] = was;
        parts[i * width + s] = 0;
        continue;
      }
      const added = weight === 0 ? 0 : costs[i] === Number.POSITIVE_INFINITY ? Number.POSITIVE_INFINITY : weight * (costs[i] - was);
      costs[i] = was + added;
      parts[i * width + s] = added;
    }
    if (fault !== undefined) this.#fail(scorer.name, fault);
  }

  #applies(piece: RouterFilter | RouterScorer, request: RoutingRequest): boolean {
    try {
      return piece.applies?.(request) ?? true;
    } catch (error) {
      this.#fail(piece.name, `threw: ${String(error)}`);
      return false;
    }
  }

  /** What a scorer that was not asked added. */
  #zero(s: number, count: number): void {
    const parts = this.parts.costs;
    const width = this.#scorers.length;
    for (let i = this.#zeroRows[s]; i < count; i++) parts[i * width + s] = 0;
    if (count > this.#zeroRows[s]) this.#zeroRows[s] = count;
  }

  #fail(piece: string, reason: string): void {
    this.#problem = `${piece} ${reason}`;
    this.#failed(piece, reason);
  }

  #grow(count: number): void {
    this.#excluded = new Uint8Array(count * 2);
    this.#before = new Float64Array(count * 2);
    this.parts.costs = new Float64Array(count * 2 * this.#scorers.length);
    this.#zeroRows.fill(count * 2);
  }
}
