import type { Clock, Logger } from '@armature/contracts';
import type { VllmConnector } from './connector/index.ts';
import type { KvEvents, KvEventsConfig } from './kv-events/kv-events.ts';
import type { RankPlace } from './ranks.ts';
import type { ServeConfig } from './serve/serve-config.ts';
import type { VllmProcess } from './serve/vllm-process.ts';

export interface VllmConfig {
  readonly baseUrl: string;
  /** Path of the connector's socket; empty: none. */
  readonly connector: string;
  readonly model: string;
  readonly apiKey: string;
  readonly totalBlocks: number;
  readonly sendPriority: boolean;
  readonly startTimeoutMs: number;
  readonly probeIntervalMs: number;
  readonly probeTimeoutMs: number;
  readonly idleTimeoutMs: number;
  readonly canaryIntervalMs: number;
  readonly canaryTimeoutMs: number;
  readonly kvEvents: KvEventsConfig;
  readonly serve: ServeConfig;
}

export interface VllmOptions {
  readonly config: VllmConfig;
  /** Block size of the model in our configuration; vLLM's own must be the same where it is known. */
  readonly blockSize: number;
  readonly clock: Clock;
  readonly log: Logger;
  /** Which of the server's data-parallel ranks this is; absent: it has one. */
  readonly place?: RankPlace;
  /** Our side of its KV connector; closed with the backend. */
  readonly connector?: VllmConnector;
  /** Follower of its KV events; opened and closed with the backend. */
  readonly events?: KvEvents;
  /** The server, when we start it; ended with the backend. */
  readonly process?: VllmProcess;
}
