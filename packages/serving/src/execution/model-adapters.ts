import type { InferenceHandle, InferenceRequest, Logger, ModelHandle, Preprocessor, ResponseFormat, SelectionQuery, Selector, TokenSink, WorkerRecord } from '@armature/contracts';

/** Names kept of adapters that no live worker has; beyond that those heard of first are forgotten. */
const MAX_NAMES = 1_024;

/** What an adapter needs of the model that it belongs to. */
export interface AdapterBase extends Omit<ModelHandle, 'parent' | 'isReady' | 'responseFormats'> {
  responseFormats(): readonly ResponseFormat['type'][] | undefined;
  readonly selector: Selector;
  readonly router: { readonly table: { records(): readonly WorkerRecord[] } };
}

export interface ModelAdaptersOptions {
  readonly base: AdapterBase;
  /** Answered for before a worker has said that it has them. */
  readonly configured: readonly string[];
  /** Whoever answers to that name, when it is not the adapter alone. */
  readonly alsoNamed: (adapter: string) => string | undefined;
  readonly log: Logger;
}

/** A LoRA adapter as clients see it: a model of its own, run by those workers of its base model that have it. */
class ModelAdapter implements ModelHandle {
  readonly name: string;
  readonly parent: string;
  readonly preprocessor: Preprocessor;
  readonly createdAtSeconds: number;
  readonly selector: Selector;
  readonly #base: AdapterBase;

  constructor(name: string, base: AdapterBase) {
    this.name = name;
    this.parent = base.name;
    this.preprocessor = base.preprocessor;
    this.createdAtSeconds = base.createdAtSeconds;
    this.selector = selectorOf(name, base.selector);
    this.#base = base;
  }

  get maxModelTokens(): number {
    return this.#base.maxModelTokens;
  }

  isReady(): boolean {
    return this.#base.router.table.records().some(({ role, adapters }) => role !== 'prefill' && adapters?.includes(this.name) === true);
  }

  responseFormats(): readonly ResponseFormat['type'][] | undefined {
    return this.#base.responseFormats();
  }

  execute(request: InferenceRequest, sink: TokenSink): InferenceHandle {
    return this.#base.execute({ ...request, adapter: this.name }, sink);
  }
}

function selectorOf(adapter: string, base: Selector): Selector {
  return {
    select: (query: SelectionQuery) => base.select({ ...query, adapter }),
    prefilled: (id) => base.prefilled(id),
    grown: (id, outputTokens) => base.grown(id, outputTokens),
    ended: (id, cachedTokens) => base.ended(id, cachedTokens),
    overlaps: (promptTokenIds, cacheSalt) => base.overlaps(promptTokenIds, cacheSalt, adapter),
    overlapsOf: (sequenceHashes) => base.overlapsOf(sequenceHashes),
  };
}

/**
 * The adapters of one model: those configured, and those that a worker has told since this process began. One that has lost its last worker stays known, so that
 * clients hear "try again" and not "there is no such model".
 */
export class ModelAdapters {
  readonly #options: ModelAdaptersOptions;
  /** Heard of first, first. */
  readonly #byName = new Map<string, ModelAdapter>();

  constructor(options: ModelAdaptersOptions) {
    this.#options = options;
    for (const name of options.configured) this.#byName.set(name, new ModelAdapter(name, options.base));
  }

  list(): readonly ModelHandle[] {
    return [...this.#byName.values()];
  }

  get(name: string): ModelHandle | undefined {
    return this.#byName.get(name);
  }

  joined({ adapters = [], instanceId }: WorkerRecord): void {
    for (const name of adapters) if (!this.#byName.has(name)) this.#add(name, instanceId);
  }

  #add(name: string, worker: string): void {
    const { base, log, alsoNamed } = this.#options;
    this.#byName.set(name, new ModelAdapter(name, base));
    const other = alsoNamed(name);
    if (other !== undefined) {
      log.warn('an adapter has the name of something else', { code: 'SERVING_ADAPTER_NAME_TAKEN', adapter: name, model: base.name, worker, other, hint: 'a model goes before an adapter, then the order of the file decides; rename one' });
    }
    if (this.#byName.size > MAX_NAMES) this.#forgetOne();
  }

  #forgetOne(): void {
    for (const [name, adapter] of this.#byName) {
      if (adapter.isReady() || this.#options.configured.includes(name)) continue;
      this.#byName.delete(name);
      return;
    }
  }
}
