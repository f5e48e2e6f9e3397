import type { ModelDirectory } from './model.ts';
import type { Lifecycle } from './plugin.ts';

/** The HTTP edge. `mount`, then `listen`; `drain` lets running streams end. */
export interface Frontend extends Lifecycle {
  mount(models: ModelDirectory): void;
  /** Begins to accept; resolves with the base URL. */
  listen(): Promise<{ readonly url: string }>;
}
