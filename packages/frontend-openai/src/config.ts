import type { PluginSlot } from '@armature/contracts';

/** Config of the `openai` frontend, defaults applied. */
export interface OpenAiConfig {
  readonly host: string;
  readonly port: number;
  readonly sharePort: boolean;
  readonly server: PluginSlot<'http-server'>;
  readonly maxBodyBytes: number;
  readonly requestTimeoutMs: number;
  readonly maxConcurrentRequests: number;
  readonly overloadStatus: 429 | 503 | 529;
  readonly maxPendingBytes: number;
  readonly apiKeys: readonly string[];
}
