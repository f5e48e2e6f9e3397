import { ArmatureError } from '@armature/contracts';
import type { DisaggregationPolicy, Discovery, Logger, PlainData, Registration } from '@armature/contracts';

/** Where the planner of a model says which disaggregation threshold holds. */
const keyOf = (model: string): string => `planner/${model}/threshold`;

/** Frontends: the policy has the threshold that a planner set, and its own again when the planner is gone. */
export async function followThreshold(model: string, policy: DisaggregationPolicy, discovery: Discovery): Promise<{ close(): void } | undefined> {
  const own = policy.thresholdTokens;
  if (own === undefined) return undefined;
  const key = keyOf(model);
  return discovery.watch(key, {
    put: (entry) => {
      const tokens = (entry.value as { readonly tokens?: PlainData } | null)?.tokens;
      if (entry.key === key && typeof tokens === 'number' && tokens >= 0) policy.thresholdTokens = tokens;
    },
    removed: (removed) => {
      if (removed === key) policy.thresholdTokens = own;
    },
  });
}

/** The planner's side: says the threshold in discovery for as long as it lives. One write at a time; of several the last one counts. */
export class PublishedThreshold {
  readonly #model: string;
  readonly #discovery: Discovery;
  readonly #log: Logger;
  #tokens: number;
  #registration: Registration | undefined;
  #writing: Promise<void> | undefined;
  #isClosed: boolean;

  /** `tokens`: as configured. */
  constructor(options: { readonly model: string; readonly tokens: number; readonly discovery: Discovery; readonly log: Logger }) {
    this.#model = options.model;
    this.#tokens = options.tokens;
    this.#discovery = options.discovery;
    this.#log = options.log;
    this.#registration = undefined;
    this.#writing = undefined;
    this.#isClosed = false;
  }

  current(): number {
    return this.#tokens;
  }

  set(tokens: number): void {
    this.#tokens = tokens;
    this.#writing ??= this.#write();
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#writing;
    await this.#registration?.close();
  }

  async #write(): Promise<void> {
    try {
      for (let written = NaN; written !== this.#tokens && !this.#isClosed; ) {
        written = this.#tokens;
        const value = { tokens: written };
        if (this.#registration === undefined) this.#registration = await this.#discovery.register(keyOf(this.#model), value);
        else await this.#registration.update(value);
      }
    } catch (error) {
      // The next plan sets it again.
      this.#log.warn('the disaggregation threshold could not be set', { model: this.#model, code: ArmatureError.from(error).code });
    }
    this.#writing = undefined;
  }
}
