import type { Lifecycle } from './plugin.ts';

/** The composition root: its schema is the top level of the YAML. Held by `serving`; not open to third parties. */
export interface Deployment extends Lifecycle {
  start(): Promise<void>;
  /** What `armature serve` prints when ready: addresses, models, workers. */
  summary(): DeploymentSummary;
}

export interface DeploymentSummary {
  /** Base URL of the API, or undefined when this process has no frontend. */
  readonly url: string | undefined;
  readonly adminUrl: string | undefined;
  readonly models: readonly {
    readonly name: string;
    readonly source: string;
    readonly workers: readonly { readonly name: string; readonly role: string; readonly engine: string }[];
  }[];
}
