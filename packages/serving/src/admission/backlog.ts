import type { Clock, WorkerRole } from '@armature/contracts';
import type { QueueConfig } from './config.ts';
import { DrainRate } from './drain-rate.ts';
import type { QueueState, Rejection } from './queue-metrics.ts';
import { Tenants } from './tenants.ts';
import type { Tenant } from './tenants.ts';
import type { Ticket } from './ticket.ts';

type Totals = { -readonly [K in keyof QueueState]: QueueState[K] };

/** Everything parked, summed by role and tenant; says whether more may enter, and if not, when to come back. */
export class Backlog {
  readonly tenants: Tenants;
  readonly #config: QueueConfig;
  readonly #clock: Clock;
  readonly #rate: DrainRate;
  readonly #roles: { readonly [K in WorkerRole]: Totals };
  #requests = 0;
  #promptTokens = 0;
  #costTokens = 0;

  constructor(config: QueueConfig, clock: Clock) {
    this.#config = config;
    this.#clock = clock;
    this.tenants = new Tenants(config.tenantWeights, config.maxTenants);
    this.#rate = new DrainRate(config.maxRetryAfterMs);
    this.#roles = { both: { requests: 0, promptTokens: 0 }, prefill: { requests: 0, promptTokens: 0 }, decode: { requests: 0, promptTokens: 0 } };
  }

  get promptTokens(): number {
    return this.#promptTokens;
  }

  get roles(): Readonly<Record<WorkerRole, QueueState>> {
    return this.#roles;
  }

  get drainedTokensPerSecond(): number {
    return this.#rate.tokensPerSecond;
  }

  enter(name: string, role: WorkerRole, promptTokens: number, costTokens: number): Tenant {
    this.#watch();
    this.#add(role, 1, promptTokens, costTokens);
    return this.tenants.enter(name, promptTokens, costTokens);
  }

  leave(ticket: Ticket): void {
    this.#watch();
    this.#add(ticket.class.gate.role, -1, -ticket.promptTokens, -ticket.costTokens);
    this.tenants.leave(ticket.tenant, ticket.promptTokens, ticket.costTokens);
  }

  /** What left has been admitted. */
  drained(costTokens: number): void {
    this.#rate.drained(costTokens);
  }

  /** The limit that one more request of the tenant would break; its own limits first. The request that crosses a limit on tokens still enters. */
  excess(name: string): Rejection | undefined {
    const { maxRequests, maxTokens, maxTenantRequests, maxTenantTokens } = this.#config;
    const tenant = this.tenants.find(name);
    if (tenant !== undefined && tenant.requests >= (maxTenantRequests ?? Infinity)) return 'tenant-requests';
    if (tenant !== undefined && tenant.promptTokens >= (maxTenantTokens ?? Infinity)) return 'tenant-tokens';
    if (this.#requests >= maxRequests) return 'requests';
    return this.#promptTokens >= maxTokens ? 'tokens' : undefined;
  }

  /** Until the whole backlog has drained; for a tenant that has its turns, until its own has. */
  retryAfterMs(name?: string): number {
    this.#watch();
    const tenant = name === undefined || this.#config.order !== 'drr' ? undefined : this.tenants.find(name);
    return this.#rate.retryAfterMs(tenant === undefined ? this.#costTokens : (tenant.costTokens * this.tenants.activeWeight) / tenant.weight);
  }

  #watch(): void {
    this.#rate.advance(this.#clock.nowMs(), this.#requests > 0);
  }

  #add(role: WorkerRole, requests: number, promptTokens: number, costTokens: number): void {
    const totals = this.#roles[role];
    totals.requests += requests;
    totals.promptTokens += promptTokens;
    this.#requests += requests;
    this.#promptTokens += promptTokens;
    this.#costTokens += costTokens;
  }
}
