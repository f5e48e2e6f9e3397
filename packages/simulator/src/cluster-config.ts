import { fileURLToPath } from 'node:url';
import { ArmatureError } from '@armature/contracts';
import type { PluginDescriptor, WorkerRole } from '@armature/contracts';
import { parse, stringify } from 'yaml';
import type { HardwareModel, SimulationSettings } from './settings.ts';

/** A pool of the simulated cluster. */
export interface SimulatedPool {
  readonly model: string;
  readonly pool: string;
  readonly role: WorkerRole;
  readonly replicas: number;
  readonly minReplicas: number;
  readonly hardware: string;
  readonly gpusPerWorker: number;
  readonly costPerHour: number;
  readonly startupMs: number;
  readonly blockSize: number;
}

export interface SimulatedConfig {
  /** The same cluster with simulated engines, planes and transports, without listeners, and without workers: those are started one by one. */
  readonly text: string;
  readonly pools: readonly SimulatedPool[];
  /** What was assumed where the file does not say it. */
  readonly assumptions: readonly string[];
}

export interface ConfigChanges {
  /** See `lookaheadMs` of the mock engine. */
  readonly lookaheadMs: number;
  /** Requests whose records are kept. */
  readonly records: number;
  /** Other numbers of workers, by pool. */
  readonly replicas: Readonly<Record<string, number>>;
  /** Those that the file may name: what its KV tiers are is asked of them. */
  readonly plugins: readonly PluginDescriptor[];
}

type Raw = Record<string, unknown>;

const MODEL_FOLDER = fileURLToPath(new URL('../model', import.meta.url));
const DEFAULT_BLOCK_SIZE = 16;
/** Block numbers of a trace are its token ids. */
const VOCABULARY = 0x7fffffff;

/** Rewrites a deployment's YAML for the simulator. */
export function simulatedConfig(text: string, settings: SimulationSettings, changes: ConfigChanges): SimulatedConfig {
  const raw = parse(text) as Raw | null;
  const models = raw?.['models'];
  if (raw === null || !Array.isArray(models) || models.length === 0) {
    throw new ArmatureError('SIMULATION_NO_MODEL', 'the configuration has no models', { hint: 'simulate a deployment: the file that armature serve takes' });
  }
  const pools: SimulatedPool[] = [];
  const assumptions: string[] = [];
  const hardware = (raw['hardware'] ?? {}) as Record<string, { costPerHour?: number }>;
  const simulated = (models as Raw[]).map((model) => {
    const blockSize = (model['blockSize'] as number | undefined) ?? DEFAULT_BLOCK_SIZE;
    const workers = ((model['workers'] ?? []) as Raw[]).map((worker) => {
      const profile = (worker['hardware'] as string | undefined) ?? 'default';
      const machine = settings.hardware[profile];
      const name = String(worker['name']);
      const engine = simulatedEngine(worker, machine, blockSize);
      if (engine.assumption !== undefined) assumptions.push(`${name}: ${engine.assumption}`);
      const startupMs = machine?.startupMs ?? (engine.config['startupMs'] as number | undefined) ?? 0;
      pools.push({
        model: String(model['name']),
        pool: name,
        role: (worker['role'] as WorkerRole | undefined) ?? 'both',
        replicas: changes.replicas[name] ?? (worker['replicas'] as number | undefined) ?? 1,
        minReplicas: (worker['minReplicas'] as number | undefined) ?? 1,
        hardware: profile,
        gpusPerWorker: machine?.gpusPerWorker ?? 1,
        costPerHour: hardware[profile]?.costPerHour ?? 1,
        startupMs,
        blockSize,
      });
      const kvbm = simulatedKvbm(worker['kvbm'] as Raw | undefined, { plugins: changes.plugins, blockBytes: blockSize * settings.network.kvBytesPerToken, assume: (what) => assumptions.push(`${name}: ${what}`) });
      return { ...without(worker, ['kvbm']), ...(kvbm === undefined ? {} : { kvbm }), maxReplicas: worker['maxReplicas'] ?? worker['replicas'] ?? 1, replicas: 0, engine: { use: 'mock', config: { ...engine.config, startupMs, vocabSize: VOCABULARY, kvCheck: 'none', lookaheadMs: changes.lookaheadMs } } };
    });
    return { ...model, source: MODEL_FOLDER, preprocessor: { use: 'simulated' }, workers };
  });
  const rest = without(raw, ['frontend', 'admin', 'log', 'planner']);
  const planner = raw['planner'] as Raw | undefined;
  const config = { ...rest, discovery: { use: 'memory' }, events: { use: 'memory' }, requests: { use: 'memory' }, transports: [{ use: 'memory' }], records: changes.records, ...(planner === undefined ? {} : { planner: { ...without(planner, ['alone']), connector: { use: 'simulated' } } }), models: simulated };
  return { text: stringify(config), pools, assumptions };
}

interface SimulatedEngine {
  readonly config: Raw;
  readonly assumption?: string;
}

/** A mock says itself how fast it is; what another engine is like follows from its hardware. */
function simulatedEngine(worker: Raw, machine: HardwareModel | undefined, blockSize: number): SimulatedEngine {
  const { use, config } = (worker['engine'] ?? {}) as { use?: string; config?: Raw };
  const isMock = use === 'mock';
  const known: Raw = isMock ? { ...config } : {};
  if (machine === undefined) {
    return isMock ? { config: known } : { config: known, assumption: `engine ${use} is simulated with the times of Dynamo's mocker: its hardware profile says none` };
  }
  const { prefill, decode, linear, table, kvTokens, maxSequences, maxBatchedTokens } = machine;
  const timing = table === undefined ? (linear === undefined ? undefined : { linear }) : { table };
  return {
    config: {
      ...known,
      ...(prefill === undefined ? {} : { prefillCoefficients: prefill }),
      ...(decode === undefined ? {} : { decodeCoefficients: decode }),
      ...(timing === undefined ? {} : { timing }),
      ...(kvTokens === undefined ? {} : { totalBlocks: Math.max(1, Math.floor(kvTokens / blockSize)) }),
      ...(maxSequences === undefined ? {} : { maxSequences }),
      ...(maxBatchedTokens === undefined ? {} : { maxBatchedTokens }),
    },
  };
}

/** The same policy over simulated tiers that hold as many blocks. Object stores are shared by all workers, which a tier per worker is not: they are left out. */
function simulatedKvbm(kvbm: Raw | undefined, options: { readonly plugins: readonly PluginDescriptor[]; readonly blockBytes: number; readonly assume: (what: string) => void }): Raw | undefined {
  if (kvbm === undefined) return undefined;
  const left: string[] = [];
  const tiers: Raw[] = [];
  for (const { use, config } of (kvbm['tiers'] ?? []) as { use: string; config?: Raw }[]) {
    const facts = options.plugins.find(({ kind, name }) => kind === 'kv-tier' && name === use)?.facts?.((config ?? {}) as never);
    const capacityBytes = facts?.['capacityBytes'];
    const tier = facts?.['tier'];
    if ((tier === 'host' || tier === 'disk') && typeof capacityBytes === 'number') tiers.push({ use: 'simulated', config: { tier, blocks: Math.max(1, Math.floor(capacityBytes / options.blockBytes)) } });
    else left.push(use);
  }
  if (left.length > 0) options.assume(`kvbm tiers ${left.join(', ')} are left out`);
  // Blocks have no bytes that could be checked.
  return tiers.length === 0 ? undefined : { ...kvbm, tiers, verify: false };
}

function without(object: Raw, keys: readonly string[]): Raw {
  return Object.fromEntries(Object.entries(object).filter(([key]) => !keys.includes(key)));
}
