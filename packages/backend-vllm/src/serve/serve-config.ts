import { ArmatureError } from '@armature/contracts';

/** A `vllm serve` that the worker starts and watches. */
export interface ServeConfig {
  /** Folder or name of the model; empty: none is started, `baseUrl` is attached to. */
  readonly model: string;
  readonly command: readonly string[];
  readonly host: string;
  /** 0: one that is free. */
  readonly port: number;
  readonly kvEvents: boolean;
  readonly tensorParallelSize: number;
  readonly pipelineParallelSize: number;
  /** JSON, as `--kv-transfer-config` takes it; empty: that of our connector if there is one. */
  readonly kvTransferConfig: string;
  readonly extraArgs: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** In a row, after it has served. */
  readonly restarts: number;
  readonly restartDelayMs: number;
  readonly stopTimeoutMs: number;
}

export interface ServeFacts {
  /** `workers[].dpRanks`: copies of the engine in this server. */
  readonly ranks: number;
  readonly blockSize: number;
  /** Served model name; empty: vLLM's default. */
  readonly servedName: string;
  readonly port: number;
  /** Where we listen for events, and where the engine answers replays; undefined: events off. */
  readonly events: { readonly endpoint: string; readonly replayEndpoint: string } | undefined;
  readonly transferConfig: string;
}

/** Flags that come from our configuration: saying them again in `extraArgs` would make two truths. */
const OWN_FLAGS = ['--api-key', '--host', '--port', '--block-size', '--served-model-name', '--kv-events-config', '--kv-transfer-config', '--tensor-parallel-size', '-tp', '--pipeline-parallel-size', '-pp', '--data-parallel-size', '-dp', '--data-parallel-rank', '-dpn', '--data-parallel-external-lb', '-dpe', '--data-parallel-hybrid-lb', '-dph', '--enable-prompt-tokens-details', '--enable-prefix-caching', '--no-enable-prefix-caching'];

/** As vLLM reads a flag: `_` is `-`, `=VALUE` and `.part` of a JSON flag belong to it. */
function flagOf(arg: string): string {
  return arg.split(/[=.]/, 1)[0].replaceAll('_', '-');
}

/** The command line of `vllm serve`. Throws `VLLM_SERVE_FLAG`. */
export function serveCommand(config: ServeConfig, facts: ServeFacts): string[] {
  const twice = config.extraArgs.find((arg) => OWN_FLAGS.includes(flagOf(arg)));
  if (twice !== undefined) {
    throw new ArmatureError('VLLM_SERVE_FLAG', `engine.config.serve.extraArgs says ${twice}, which is made from the configuration`, { hint: 'set the field that it belongs to (of engine.config; models[].blockSize; workers[].dpRanks), and leave the flag out' });
  }
  const { events, transferConfig } = facts;
  const sizes: [flag: string, size: number][] = [
    ['--tensor-parallel-size', config.tensorParallelSize],
    ['--pipeline-parallel-size', config.pipelineParallelSize],
    ['--data-parallel-size', facts.ranks],
  ];
  return [
    ...config.command,
    'serve',
    config.model,
    ...['--host', config.host, '--port', String(facts.port), '--block-size', String(facts.blockSize), '--enable-prompt-tokens-details'],
    ...(facts.servedName === '' ? [] : ['--served-model-name', facts.servedName]),
    ...sizes.flatMap(([flag, size]) => (size > 1 ? [flag, String(size)] : [])),
    // An endpoint without * makes vLLM connect to us: no port of its own for the stream of events.
    ...(events === undefined ? [] : ['--enable-prefix-caching', '--kv-events-config', JSON.stringify({ enable_kv_cache_events: true, publisher: 'zmq', endpoint: events.endpoint, replay_endpoint: events.replayEndpoint, topic: '' })]),
    ...(transferConfig === '' ? [] : ['--kv-transfer-config', transferConfig]),
    ...config.extraArgs,
  ];
}

export const serveSchema = {
  type: 'object',
  additionalProperties: false,
  default: {},
  description: 'Starts `vllm serve` with the worker, watches it and ends it with the worker, instead of attaching to `baseUrl`.',
  properties: {
    model: { type: 'string', default: '', description: 'Folder (./… is relative to the configuration) or name of the model that vLLM loads. Empty = nothing is started.' },
    command: { type: 'array', items: { type: 'string' }, minItems: 1, default: ['vllm'], description: 'The vllm program, with whatever goes before it.' },
    host: { type: 'string', default: '127.0.0.1', description: 'Address that it listens on.' },
    port: { type: 'integer', minimum: 0, maximum: 65_535, default: 0, description: 'Port that it listens on; 0 = one that is free. With workers[].dpRanks above 1 it must be set: the ranks of one server are workers that share it, and KV events take the 2 * dpRanks ports after it. The next server of the pool has the ports after those.' },
    kvEvents: { type: 'boolean', default: true, description: 'Turn its KV events on and follow them, on ports of 127.0.0.1 that are free.' },
    tensorParallelSize: { type: 'integer', minimum: 1, default: 1, description: 'Ranks that each layer is split over.' },
    pipelineParallelSize: { type: 'integer', minimum: 1, default: 1, description: 'Ranks that the layers are split over.' },
    kvTransferConfig: { type: 'string', default: '', description: 'JSON for --kv-transfer-config; empty = that of `connector`, if set.' },
    extraArgs: { type: 'array', items: { type: 'string' }, default: [], description: 'Further flags of `vllm serve`, one item a word.' },
    env: { type: 'object', additionalProperties: { type: 'string' }, default: {}, description: 'Environment variables for it, added to those of the worker.' },
    restarts: { type: 'integer', minimum: 0, default: 10, description: 'How often in a row it is started again when it ends by itself after it has served. One that ends before it has served is not started again.' },
    restartDelayMs: { type: 'integer', minimum: 1, default: 1000, description: 'Milliseconds before the first restart; doubled with each one in a row, at most a minute.' },
    stopTimeoutMs: { type: 'integer', minimum: 0, default: 15_000, description: 'Milliseconds between SIGTERM and SIGKILL when the worker closes.' },
  },
} as const;
