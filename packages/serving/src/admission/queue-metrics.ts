import type { Counter, Histogram, Metrics, WorkerRole } from '@armature/contracts';

const ROLES: readonly WorkerRole[] = ['both', 'prefill', 'decode'];
const SECONDS = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300];

/** Why a request was not taken into the queue. */
export type Rejection = 'requests' | 'tokens' | 'tenant-requests' | 'tenant-tokens' | 'classes' | 'closed';
/** How a parked request left the queue. */
export type Exit = 'admitted' | 'admitted-by-scan' | 'left' | 'deadline' | 'max-wait' | 'closed';

/** What a scrape reads of a queue. */
export interface QueueState {
  readonly requests: number;
  readonly promptTokens: number;
}

/** Labels are role, reason and outcome: never a tenant, of which there may be any number. The largest ones are on the admin listener (`/queues`). */
export class QueueMetrics {
  readonly waitSeconds: Histogram;
  readonly #parked: { readonly [K in WorkerRole]: Counter };
  readonly #rejections: { readonly [K in Rejection]: Counter };
  readonly #exits: { readonly [K in Exit]: Counter };
  readonly #collect: () => void;
  readonly #unregister: () => void;

  constructor(metrics: Metrics, model: string, sources: { readonly roles: Readonly<Record<WorkerRole, QueueState>>; tenants(): number }) {
    const labelNames = ['model', 'role'];
    const parked = metrics.counter({ name: 'armature_queue_parked_total', help: 'Requests that had to wait, by the role of the workers that compute their prompt.', labelNames });
    const rejections = metrics.counter({ name: 'armature_queue_rejections_total', help: 'Requests refused because the queue was full, by the limit that was reached.', labelNames: ['model', 'reason'] });
    const exits = metrics.counter({ name: 'armature_queue_exits_total', help: 'Requests that left the queue, by outcome.', labelNames: ['model', 'outcome'] });
    const requests = metrics.gauge({ name: 'armature_queue_requests', help: 'Requests waiting for a worker that is not busy.', labelNames });
    const tokens = metrics.gauge({ name: 'armature_queue_prompt_tokens', help: 'Prompt tokens of those requests.', labelNames });
    const tenants = metrics.gauge({ name: 'armature_queue_tenants', help: 'Tenants that have requests waiting.', labelNames: ['model'] }).with(model);
    this.waitSeconds = metrics.histogram({ name: 'armature_queue_wait_seconds', help: 'Time that admitted requests had waited.', labelNames: ['model'], buckets: SECONDS }).with(model);
    this.#parked = { both: parked.with(model, 'both'), prefill: parked.with(model, 'prefill'), decode: parked.with(model, 'decode') };
    const rejected = (reason: Rejection): Counter => rejections.with(model, reason);
    this.#rejections = {
      requests: rejected('requests'),
      tokens: rejected('tokens'),
      'tenant-requests': rejected('tenant-requests'),
      'tenant-tokens': rejected('tenant-tokens'),
      classes: rejected('classes'),
      closed: rejected('closed'),
    };
    const left = (outcome: Exit): Counter => exits.with(model, outcome);
    this.#exits = {
      admitted: left('admitted'),
      'admitted-by-scan': left('admitted-by-scan'),
      left: left('left'),
      deadline: left('deadline'),
      'max-wait': left('max-wait'),
      closed: left('closed'),
    };
    const gauges = ROLES.map((role) => ({ state: sources.roles[role], requests: requests.with(model, role), tokens: tokens.with(model, role) }));
    this.#collect = () => {
      for (const gauge of gauges) {
        gauge.requests.set(gauge.state.requests);
        gauge.tokens.set(gauge.state.promptTokens);
      }
      tenants.set(sources.tenants());
    };
    this.#unregister = metrics.onCollect(this.#collect);
  }

  parked(role: WorkerRole): void {
    this.#parked[role].inc();
  }

  rejected(reason: Rejection): void {
    this.#rejections[reason].inc();
  }

  left(outcome: Exit): void {
    this.#exits[outcome].inc();
  }

  /** The gauges stay as they are now. */
  close(): void {
    this.#collect();
    this.#unregister();
  }
}
