import type { Clock, Codec, Health, Logger, Metrics, Random } from '@armature/contracts';

/** `discovery: { use: etcd, config: … }`, with its defaults filled in. */
export interface EtcdDiscoveryConfig {
  readonly endpoints: readonly string[];
  readonly cluster: string;
  readonly namespace: string;
  readonly username: string;
  readonly password: string;
  readonly tls: EtcdTlsConfig;
  readonly startTimeoutMs: number;
  readonly requestTimeoutMs: number;
  readonly operationTimeoutMs: number;
  readonly heartbeatMs: number;
  readonly reconnectMinMs: number;
  readonly reconnectMaxMs: number;
  readonly graceMs: number;
  readonly restoreJitterMs: number;
  readonly maxValueBytes: number;
}

/** PEM files; relative paths are relative to the configuration file. */
export interface EtcdTlsConfig {
  readonly caFile: string;
  readonly certFile: string;
  readonly keyFile: string;
  readonly serverName: string;
}

export interface EtcdDiscoveryOptions {
  readonly config: EtcdDiscoveryConfig;
  readonly baseDir: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly health: Health;
  readonly codec: Codec;
}

/** What every part of the plug-in needs. */
export type Leaves = Pick<EtcdDiscoveryOptions, 'config' | 'clock' | 'random' | 'log'>;

export const DEFAULT_TTL_MS = 10_000;
