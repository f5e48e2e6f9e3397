// One real vLLM server on this machine's CPU.
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Child, freePort } from './processes.mjs';

export const MODEL_FOLDER = fileURLToPath(new URL('../../packages/model-demo/model', import.meta.url));
/** vLLM's CPU attention takes multiples of 32 only. */
export const BLOCK_SIZE = 32;
/** Far above what a start takes here (15 s idle): the machine may be busy. */
const START_TIMEOUT_MS = 300_000;

/** What makes vLLM small, offline and loopback-only. Without multiprocessing (and with the `uni` executor, below) an instance is two processes instead of four. */
export const VLLM_ENV = {
  VLLM_NO_USAGE_STATS: '1',
  DO_NOT_TRACK: '1',
  HF_HUB_OFFLINE: '1',
  TRANSFORMERS_OFFLINE: '1',
  TOKENIZERS_PARALLELISM: 'false',
  VLLM_HOST_IP: '127.0.0.1',
  VLLM_LOOPBACK_IP: '127.0.0.1',
  GLOO_SOCKET_IFNAME: 'lo',
  OMP_NUM_THREADS: '1',
  VLLM_CPU_OMP_THREADS_BIND: 'nobind',
  VLLM_ENABLE_V1_MULTIPROCESSING: '0',
  VLLM_SERVER_DEV_MODE: '1', // /reset_prefix_cache
  PYTHONHASHSEED: '0',
  UCX_TLS: 'tcp,self,sm',
  UCX_NET_DEVICES: 'lo',
  VLLM_NIXL_SIDE_CHANNEL_HOST: '127.0.0.1',
};

/** Flags beside the model, the address and the block size. Where a grammar lets it, the demo model writes white space for ever. */
export const VLLM_FLAGS = ['--dtype', 'float32', '--max-model-len', '2048', '--max-num-seqs', '8', '--enforce-eager', '--enable-prefix-caching', '--distributed-executor-backend', 'uni', '--kv-cache-memory-bytes', '64M', '--enable-prompt-tokens-details', '--enable-scale-out', '--structured-outputs-config', JSON.stringify({ backend: 'xgrammar', disable_any_whitespace: true })];

export const NIXL_CONNECTOR = { kv_connector: 'NixlConnector', kv_role: 'kv_both', kv_buffer_device: 'cpu' };

export class VllmServer {
  #install;
  #folder;
  #options;
  #child;
  starts = 0;

  /** `connector`: --kv-transfer-config. `eventsPort`: KV events are published there, to a subscriber that binds. `replayPort`: it tells again there. */
  constructor({ name, install, folder, connector, eventsPort, replayPort, flags = [], env = {} }) {
    this.name = name;
    this.#install = install;
    this.#folder = folder;
    this.#options = { connector, eventsPort, replayPort, flags, env };
  }

  get url() {
    return `http://127.0.0.1:${this.port}`;
  }

  get child() {
    return this.#child;
  }

  /** `tellsEvents: false`: this time without KV events. */
  async start({ tellsEvents = true } = {}) {
    const { connector, eventsPort, replayPort, flags, env } = this.#options;
    const replay = replayPort === undefined ? {} : { replay_endpoint: `tcp://127.0.0.1:${replayPort}` };
    this.port ??= await freePort();
    this.sidePort ??= await freePort();
    this.starts++;
    const args = ['serve', MODEL_FOLDER, '--served-model-name', 'demo', '--host', '127.0.0.1', '--port', String(this.port), '--block-size', String(BLOCK_SIZE), ...VLLM_FLAGS];
    if (connector !== undefined) args.push('--kv-transfer-config', JSON.stringify({ engine_id: `${this.name}-${this.starts}`, ...connector }));
    if (eventsPort !== undefined && tellsEvents) args.push('--kv-events-config', JSON.stringify({ enable_kv_cache_events: true, publisher: 'zmq', endpoint: `tcp://127.0.0.1:${eventsPort}`, topic: 'kv-events', ...replay }));
    this.#child = new Child({
      name: `vllm ${this.name}`,
      command: this.#install.vllm,
      args: [...args, ...flags],
      env: { ...process.env, ...VLLM_ENV, VLLM_NIXL_SIDE_CHANNEL_PORT: String(this.sidePort), ...env },
      logFile: join(this.#folder, `vllm-${this.name}-${this.starts}.log`),
    });
    await this.#child.ready(() => this.isHealthy(), START_TIMEOUT_MS);
  }

  async isHealthy() {
    try {
      return (await fetch(`${this.url}/health`)).ok;
    } catch {
      return false;
    }
  }

  async metrics() {
    return (await fetch(`${this.url}/metrics`)).text();
  }

  /** Empties vLLM's own prefix cache. */
  async resetCache() {
    const response = await fetch(`${this.url}/reset_prefix_cache`, { method: 'POST' });
    if (!response.ok) throw new Error(`${this.name} answered ${response.status} to /reset_prefix_cache`);
  }

  kill() {
    this.#child.signal('SIGKILL');
    return this.#child.ended;
  }

  async stop() {
    await this.#child?.stop();
  }
}
