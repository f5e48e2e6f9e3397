import type { AffinityConfig } from './config.ts';

interface Binding {
  worker: string;
  expiresAtMs: number;
}

/**
 * Which worker had the last request of each session: bounded, least recently used first, with a time to live. A binding names an instance, not a
 * slot: a worker that left is not found again under its old name, so nothing is pinned to the dead. What a binding is worth is the router's
 * business: a bonus in blocks of cost, which real load outweighs.
 */
export class SessionTable {
  readonly bonusBlocks: number;
  readonly #ttlMs: number;
  readonly #limit: number;
  /** In order of use, so also of expiry. */
  readonly #bindings = new Map<string, Binding>();

  constructor(config: AffinityConfig) {
    this.bonusBlocks = config.bonusBlocks;
    this.#ttlMs = config.ttlMs;
    this.#limit = config.maxSessions;
  }

  get size(): number {
    return this.#bindings.size;
  }

  /** Instance that the session is bound to; asking is no use of it. */
  workerOf(session: string, nowMs: number): string | undefined {
    const binding = this.#bindings.get(session);
    if (binding === undefined) return undefined;
    if (binding.expiresAtMs > nowMs) return binding.worker;
    this.#bindings.delete(session);
    return undefined;
  }

  /** A request of the session was dispatched to the worker: the session goes with it. */
  bind(session: string, worker: string, nowMs: number): void {
    const binding = this.#bindings.get(session) ?? { worker, expiresAtMs: 0 };
    this.#bindings.delete(session);
    binding.worker = worker;
    binding.expiresAtMs = nowMs + this.#ttlMs;
    this.#bindings.set(session, binding);
    this.#shrink(nowMs);
  }

  /** The worker failed a request of the session. */
  unbind(session: string, worker: string): void {
    if (this.#bindings.get(session)?.worker === worker) this.#bindings.delete(session);
  }

  /** Oldest first: what is over the limit, and up to two that have expired, so that an idle table empties as it is used. */
  #shrink(nowMs: number): void {
    let expired = 0;
    for (const [session, binding] of this.#bindings) {
      if (this.#bindings.size <= this.#limit && (binding.expiresAtMs > nowMs || expired++ === 2)) return;
      this.#bindings.delete(session);
    }
  }
}

/** One role's binding of one tenant's session: prefill and decode workers of a session are bound apart, and tenants never share one. */
export function sessionKey(tenant: string, session: string, role: string): string {
  return `${role}\u0000${session}\u0000${tenant}`;
}
