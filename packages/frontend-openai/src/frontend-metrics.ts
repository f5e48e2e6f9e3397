import type { Counter, Family, Gauge, Histogram, Metrics } from '@armature/contracts';

const SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300];
const ITL_SECONDS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1, 2.5];
const TOKENS = [1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072];

/** Metrics of one model, bound once. */
export interface ModelMetrics {
  readonly ttft: Histogram;
  readonly itl: Histogram;
  readonly e2e: Histogram;
  readonly inputTokens: Counter;
  readonly outputTokens: Counter;
  readonly cachedTokens: Counter;
  readonly inputLength: Histogram;
  readonly outputLength: Histogram;
}

/** What the frontend counts. Every child is bound on first use and kept. */
export class FrontendMetrics {
  readonly inFlight: Gauge;
  readonly disconnects: Counter;
  readonly slowClients: Counter;
  readonly shed: Counter;
  readonly #requests: Family<Counter>;
  readonly #bound = new Map<string, Counter>();
  readonly #models = new Map<string, ModelMetrics>();
  readonly #families: { readonly [K in keyof ModelMetrics]: Family<ModelMetrics[K]> };

  constructor(metrics: Metrics) {
    this.#requests = metrics.counter({ name: 'armature_frontend_requests_total', help: 'Requests answered, by route and HTTP status (499: the client left first).', labelNames: ['route', 'status'] });
    this.inFlight = metrics.gauge({ name: 'armature_frontend_requests_in_flight', help: 'Generation requests accepted and not yet answered.' }).with();
    this.disconnects = metrics.counter({ name: 'armature_frontend_disconnects_total', help: 'Generation requests whose client left before the answer was complete.' }).with();
    this.slowClients = metrics.counter({ name: 'armature_frontend_slow_clients_total', help: 'Streams cut because the client did not read fast enough.' }).with();
    this.shed = metrics.counter({ name: 'armature_frontend_shed_total', help: 'Requests refused because maxConcurrentRequests was reached.' }).with();
    const labelNames = ['model'];
    this.#families = {
      ttft: metrics.histogram({ name: 'armature_frontend_time_to_first_token_seconds', help: 'From receipt of the request to its first output token.', labelNames, buckets: SECONDS }),
      itl: metrics.histogram({ name: 'armature_frontend_inter_token_latency_seconds', help: 'Between consecutive output tokens of a request.', labelNames, buckets: ITL_SECONDS }),
      e2e: metrics.histogram({ name: 'armature_frontend_request_duration_seconds', help: 'From receipt of the request to the end of its output.', labelNames, buckets: SECONDS }),
      inputTokens: metrics.counter({ name: 'armature_frontend_input_tokens_total', help: 'Prompt tokens of accepted requests.', labelNames }),
      outputTokens: metrics.counter({ name: 'armature_frontend_output_tokens_total', help: 'Output tokens delivered to clients.', labelNames }),
      cachedTokens: metrics.counter({ name: 'armature_frontend_cached_tokens_total', help: 'Prompt tokens whose KV no worker computed for the request.', labelNames }),
      inputLength: metrics.histogram({ name: 'armature_frontend_input_length_tokens', help: 'Prompt tokens per request.', labelNames, buckets: TOKENS }),
      outputLength: metrics.histogram({ name: 'armature_frontend_output_length_tokens', help: 'Output tokens per request.', labelNames, buckets: TOKENS }),
    };
  }

  answered(route: string, status: number): void {
    const key = `${route} ${status}`;
    let counter = this.#bound.get(key);
    if (counter === undefined) {
      counter = this.#requests.with(route, String(status));
      this.#bound.set(key, counter);
    }
    counter.inc();
  }

  /** `model` is a name of the directory, never what a client wrote: label sets stay bounded. */
  model(model: string): ModelMetrics {
    let bound = this.#models.get(model);
    if (bound === undefined) {
      const f = this.#families;
      bound = {
        ttft: f.ttft.with(model),
        itl: f.itl.with(model),
        e2e: f.e2e.with(model),
        inputTokens: f.inputTokens.with(model),
        outputTokens: f.outputTokens.with(model),
        cachedTokens: f.cachedTokens.with(model),
        inputLength: f.inputLength.with(model),
        outputLength: f.outputLength.with(model),
      };
      this.#models.set(model, bound);
    }
    return bound;
  }
}
