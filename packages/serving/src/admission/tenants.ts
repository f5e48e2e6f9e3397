/** A tenant with parked requests. */
export interface Tenant {
  readonly name: string;
  readonly weight: number;
  requests: number;
  promptTokens: number;
  costTokens: number;
}

/** Name shown for everybody above the limit; a tenant that calls itself so is still its own. */
const OTHERS = '(others)';

/** Tenants that have requests parked, at most `limit` of them told apart. One without requests is forgotten. */
export class Tenants {
  readonly #byName = new Map<string, Tenant>();
  readonly #weights: ReadonlyMap<string, number>;
  readonly #limit: number;
  readonly #others: Tenant = { name: OTHERS, weight: 1, requests: 0, promptTokens: 0, costTokens: 0 };
  #activeWeight = 0;

  constructor(weights: Readonly<Record<string, number>>, limit: number) {
    this.#weights = new Map(Object.entries(weights));
    this.#limit = limit;
  }

  /** Tenants with parked requests, those that share a turn counted as one. */
  get count(): number {
    return this.#byName.size + (this.#others.requests > 0 ? 1 : 0);
  }

  /** Sum of the weights of those. */
  get activeWeight(): number {
    return this.#activeWeight;
  }

  /** The tenant as it is now; undefined when nothing of it is parked. */
  find(name: string): Tenant | undefined {
    const known = this.#byName.get(name);
    if (known !== undefined) return known;
    return this.#byName.size >= this.#limit && this.#others.requests > 0 ? this.#others : undefined;
  }

  enter(name: string, promptTokens: number, costTokens: number): Tenant {
    let tenant = this.#byName.get(name);
    if (tenant === undefined && this.#byName.size >= this.#limit) tenant = this.#others;
    if (tenant === undefined) {
      tenant = { name, weight: this.#weights.get(name) ?? 1, requests: 0, promptTokens: 0, costTokens: 0 };
      this.#byName.set(name, tenant);
    }
    if (tenant.requests === 0) this.#activeWeight += tenant.weight;
    tenant.requests++;
    tenant.promptTokens += promptTokens;
    tenant.costTokens += costTokens;
    return tenant;
  }

  leave(tenant: Tenant, promptTokens: number, costTokens: number): void {
    tenant.requests--;
    tenant.promptTokens -= promptTokens;
    tenant.costTokens -= costTokens;
    if (tenant.requests > 0) return;
    this.#activeWeight -= tenant.weight;
    if (tenant !== this.#others) this.#byName.delete(tenant.name);
    if (this.count === 0) this.#activeWeight = 0; // no rounding is carried over
  }

  /** Those with most parked requests, for people. */
  largest(limit: number): Readonly<Tenant>[] {
    const all = [...this.#byName.values(), ...(this.#others.requests > 0 ? [this.#others] : [])];
    return all.sort((a, b) => b.requests - a.requests).slice(0, limit);
  }
}
