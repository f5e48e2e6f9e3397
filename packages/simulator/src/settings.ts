import { definePlugin } from '@armature/contracts';
import type { Deployment, JsonSchema, PluginDescriptor } from '@armature/contracts';
import { loadConfig } from '@armature/core';
import type { TimingTable } from '@armature/fleet-model';
import type { LinkModel } from './network.ts';

export interface LinearTimingConfig {
  readonly prefillMsPerToken: number;
  readonly prefillMs: number;
  readonly decodeMsPerSequence: number;
  readonly decodeMsPerContextToken: number;
  readonly decodeMs: number;
}

/** What a worker on this hardware is like, where its engine is not a mock that says so itself. */
export interface HardwareModel {
  readonly gpusPerWorker: number;
  readonly startupMs: number;
  readonly kvTokens?: number;
  readonly maxSequences?: number;
  readonly maxBatchedTokens?: number;
  readonly prefill?: readonly number[];
  readonly decode?: readonly number[];
  readonly linear?: LinearTimingConfig;
  readonly table?: TimingTable;
}

export interface NetworkModel {
  /** Requests and tokens. */
  readonly requests: LinkModel;
  /** KV between workers. */
  readonly transfer: LinkModel;
  /** KV between pools, where it differs. */
  readonly links: readonly (LinkModel & { readonly from: string; readonly to: string })[];
  readonly kvBytesPerToken: number;
  /** After how long of silence a connection counts as lost. */
  readonly detectMs: number;
}

/** Milliseconds until a tier answers, and its bandwidth, of each worker. */
export interface TierModels {
  readonly host: LinkModel;
  readonly disk: LinkModel;
}

export type FaultKind = 'kill' | 'stop' | 'partition' | 'disk';

/** One fault at a time, or many by a seeded rate. */
export interface FaultModel {
  readonly kind: FaultKind;
  /** `POOL/INDEX`. */
  readonly worker?: string;
  /** Any worker of this pool, drawn. Neither: any worker. */
  readonly pool?: string;
  /** Milliseconds after the trace began. */
  readonly atMs?: number;
  /** Mean faults per hour over the workers it is about, instead of `atMs`. */
  readonly perHour?: number;
  /** `stop`, `partition`, `disk`: until it ends. */
  readonly durationMs: number;
  /** `kill`: until its process is started again; start-up follows. Absent: never. */
  readonly restartMs?: number;
  /** `disk`: so many times as slow. Absent: its operations fail. */
  readonly slowdown?: number;
}

export interface SimulationSettings {
  readonly hardware: Readonly<Record<string, HardwareModel>>;
  readonly network: NetworkModel;
  readonly tiers: TierModels;
  readonly faults: readonly FaultModel[];
}

const ms = (description: string, initial?: number): JsonSchema => ({ type: 'number', minimum: 0, description: `${description}, in milliseconds.`, ...(initial === undefined ? {} : { default: initial }) });
const count = (description: string, minimum = 1): JsonSchema => ({ type: 'integer', minimum, description });
const numbers: JsonSchema = { type: 'array', minItems: 1, items: { type: 'number', minimum: 0 } };
const object = (description: string, properties: Record<string, JsonSchema>, more: JsonSchema = {}): JsonSchema => ({ type: 'object', additionalProperties: false, description, properties, ...more });
const coefficients = (description: string): JsonSchema => ({ type: 'array', items: { type: 'number' }, minItems: 3, maxItems: 3, description });

const link = (description: string, latencyMs: number, gigabytesPerSecond: number, more: Record<string, JsonSchema> = {}, required: readonly string[] = []): JsonSchema =>
  object(description, { latencyMs: ms('From end to end', latencyMs), gigabytesPerSecond: { type: 'number', exclusiveMinimum: 0, default: gigabytesPerSecond, description: '10^9 bytes per second.' }, ...more }, required.length > 0 ? { required: [...required] } : { default: {} });

const linear = object(
  'Linear pass times, as the regression of `armature simulate` calibration or of the planner gives them.',
  Object.fromEntries(['prefillMsPerToken', 'prefillMs', 'decodeMsPerSequence', 'decodeMsPerContextToken', 'decodeMs'].map((name) => [name, { type: 'number', default: 0, description: 'Milliseconds.' }])),
);

const table = object(
  'Measured pass times: interpolated, and extrapolated with the last slope.',
  {
    prefill: object('Prefill passes.', { tokens: { ...numbers, description: 'Prompt tokens, ascending.' }, ms: { ...numbers, description: 'Milliseconds.' } }, { required: ['tokens', 'ms'] }),
    decode: object(
      'Decode passes.',
      { sequences: { ...numbers, description: 'Sequences, ascending.' }, contextTokens: { ...numbers, description: 'KV tokens they hold together, ascending.' }, ms: { type: 'array', items: numbers, description: 'Milliseconds, by sequences and context tokens.' } },
      { required: ['sequences', 'contextTokens', 'ms'] },
    ),
  },
  { required: ['prefill', 'decode'] },
);

const hardware = object('What workers on this hardware are like.', {
  gpusPerWorker: { ...count('GPUs of one worker.'), default: 1 },
  startupMs: ms('From order to first request', 0),
  kvTokens: count('KV tokens that one worker holds.'),
  maxSequences: count('Sequences in one pass.'),
  maxBatchedTokens: count('Tokens in one pass.'),
  prefill: coefficients('a, b, c: milliseconds of t prompt tokens in a pass are a·t² + b·t + c.'),
  decode: coefficients('a, b, c: milliseconds of a decode pass at KV utilisation u are a·u² + b·u + c.'),
  linear,
  table,
});

const fault = object(
  'A fault.',
  {
    kind: { enum: ['kill', 'stop', 'partition', 'disk'], description: 'kill: the process is gone. stop: it stands still. partition: nothing reaches it. disk: its disk tier fails, or with slowdown is slow.' },
    worker: { type: 'string', pattern: '^[^/]+/\\d+$', description: 'POOL/INDEX.' },
    pool: { type: 'string', description: 'Any worker of this pool. Neither worker nor pool: any worker.' },
    atMs: ms('After the trace began'),
    perHour: { type: 'number', exclusiveMinimum: 0, description: 'Mean faults per hour, instead of atMs.' },
    durationMs: ms('stop, partition, disk: until it ends', 10_000),
    restartMs: ms('kill: until the process is started again. Absent: never'),
    slowdown: { type: 'number', minimum: 1, description: 'disk: so many times as slow. Absent: its operations fail.' },
  },
  { required: ['kind'] },
);

const schema: JsonSchema = object('How a simulated cluster differs from a real one.', {
  hardware: { type: 'object', default: {}, additionalProperties: hardware, description: 'By the names of hardware profiles; `default` for workers that name none.' },
  network: object(
    'How long messages and KV take.',
    {
      requests: link('Requests and tokens, between frontends and workers.', 0.1, 3),
      transfer: link('KV, between workers.', 0.02, 25),
      links: { type: 'array', default: [], items: link('KV between two pools.', 0.02, 25, { from: { type: 'string', description: 'Pool that holds it.' }, to: { type: 'string', description: 'Pool that reads it.' } }, ['from', 'to']), description: 'Ways between pools that differ.' },
      kvBytesPerToken: { ...count('Bytes of KV of one token.'), default: 131_072 },
      detectMs: ms('Silence after which a connection counts as lost', 5_000),
    },
    { default: {} },
  ),
  tiers: object(
    'How fast KV comes and goes below the engine (`kvbm`).',
    { host: link('Between the engine and host memory.', 0.01, 25), disk: link('Disk.', 0.1, 5) },
    { default: {} },
  ),
  faults: { type: 'array', default: [], items: fault, description: 'What breaks.' },
});

const settingsRoot = definePlugin<'deployment', SimulationSettings>({
  kind: 'deployment',
  contract: 'v1',
  name: 'simulation',
  description: 'Settings of a simulation.',
  configSchema: schema,
  check: (config, report) => {
    config.faults.forEach((fault, i) => {
      if (fault.slowdown !== undefined && fault.kind !== 'disk') report({ path: ['faults', i, 'slowdown'], message: `a ${fault.kind} has no slowdown`, hint: 'only disks become slow' });
      if ((fault.atMs === undefined) === (fault.perHour === undefined)) report({ path: ['faults', i], message: 'a fault has either atMs or perHour', hint: 'atMs: once; perHour: again and again' });
    });
  },
  create: () => ({}) as Deployment,
});

/** Reads settings: YAML with `apiVersion: armature/v1`. Throws `CONFIG_INVALID` with every problem and its line. */
export async function loadSettings(text = 'apiVersion: armature/v1\n', file = 'simulation.yaml'): Promise<SimulationSettings> {
  const root = settingsRoot as PluginDescriptor<'deployment', never>;
  const { graph } = await loadConfig({ configText: text, configFile: file, root });
  return graph.config as unknown as SimulationSettings;
}
