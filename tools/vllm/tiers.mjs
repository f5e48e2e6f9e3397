// One worker's KV tiers beside a real vLLM: kvbm with its host tier (and a disk tier), our connector's socket, and the vLLM that was started with it.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { openConnector } from '../../packages/backend-vllm/dist/connector/index.js';
import { realClock } from '../../packages/contracts/dist/testing/real-clock.js';
import { createBlockManager, deviceOutOfReach, diskTier, hostTier, kvPolicyDefaults, lineage } from '../../packages/kvbm/dist/index.js';
import { createAgent } from '../../packages/nixel/dist/index.js';
import { BLOCK_SIZE, VllmServer } from './server.mjs';

const PYTHON = fileURLToPath(new URL('../../packages/backend-vllm/python/src', import.meta.url));
const CONNECT_MS = 60_000;

const silent = { debug: () => {}, info: () => {}, warn: console.warn, error: console.error, child: () => silent, isEnabled: () => false };
const instrument = { inc: () => {}, set: () => {}, add: () => {}, observe: () => {} };
const family = { with: () => instrument };
const noMetrics = { counter: () => family, gauge: () => family, histogram: () => family, onCollect: () => () => {} };

/** The managers of one test by address: what the request plane does between hosts. */
export class PeerCalls {
  managers = new Map();
  loans = 0;

  borrow(address, hashes, from, to, ttlMs, deadlineMs, done) {
    const manager = this.managers.get(address);
    if (manager === undefined) return done(undefined);
    manager.lend(hashes, from, to, ttlMs, deadlineMs, (loan) => {
      if (loan !== undefined) this.loans++;
      done(loan);
    });
  }

  renew(address, lease, ttlMs) {
    this.managers.get(address)?.renewLoan(lease, ttlMs);
  }

  settle(address, lease, done) {
    done(this.managers.get(address)?.settleLoan(lease) === 'valid');
  }
}

export class TieredVllm {
  /** `hostCapacity`, `diskCapacity`: sizes; without the latter there is no disk tier. */
  static async start({ name, install, folder, peers, hostCapacity = '64MiB', diskCapacity, offload = {}, kvRole = 'kv_both', pythonPath = PYTHON, flags, env, eventsPort }) {
    const connector = await openConnector({ socketPath: join(folder, `${name}.sock`), blockSize: BLOCK_SIZE, clock: realClock, log: silent });
    const paths = [pythonPath, process.env.PYTHONPATH].filter(Boolean).join(delimiter);
    const server = new VllmServer({ name, install, folder, connector: connector.transferConfig(kvRole), eventsPort, flags, env: { ...env, PYTHONPATH: paths } });
    const tiered = new TieredVllm({ name, connector, server, peers });
    try {
      await server.start();
      await connector.ready(CONNECT_MS);
      await tiered.#openTiers({ hostCapacity, diskCapacity, offload, peers });
      return tiered;
    } catch (error) {
      await tiered.close();
      throw error;
    }
  }

  constructor({ name, connector, server, peers }) {
    this.name = name;
    this.connector = connector;
    this.server = server;
    this.peers = peers;
  }

  async #openTiers({ hostCapacity, diskCapacity, offload, peers }) {
    this.disk = mkdtempSync(join(tmpdir(), 'armature-disk-'));
    this.agent = await createAgent({ name: this.name, clock: realClock, log: silent });
    const format = this.connector.format();
    const tiers = [await hostTier.create({ capacity: hostCapacity })];
    if (diskCapacity !== undefined) tiers.push(await diskTier.create({ path: 'kv', capacity: diskCapacity, slabBytes: '16MiB' }));
    this.manager = await createBlockManager({
      worker: `demo/${this.name}/0`,
      modelFingerprint: 'demo',
      blockSize: BLOCK_SIZE,
      baseDir: this.disk,
      kv: deviceOutOfReach(format),
      agent: this.agent,
      arenaSegment: -1,
      tiers,
      policy: await lineage.create({ offload: { ...kvPolicyDefaults.offload, ...offload }, prefetch: 'route' }),
      peers,
      clock: realClock,
      log: silent,
      metrics: noMetrics,
      labels: ['demo', this.name],
      config: { maxSlowdown: 0.05, fetchDeadlineMs: 5_000, maxQueuedBlocks: 1_024, batchBlocks: 32, quotas: {}, verify: true },
    });
    peers?.managers.set(this.name, this.manager);
    this.#attach();
  }

  #attach() {
    const { layoutFingerprint } = this.connector.format();
    this.connector.attach(this.manager.host, { instanceId: this.name, address: this.name, agentMetadata: this.agent.metadata(), layoutFingerprint });
  }

  /** After `connector.close()`: another at the same path, over the same tiers. vLLM finds it by itself. */
  async reconnect() {
    this.connector = await openConnector({ socketPath: this.connector.socketPath, blockSize: BLOCK_SIZE, clock: realClock, log: silent });
    await this.connector.ready(CONNECT_MS);
    this.#attach();
  }

  tier(name) {
    return this.manager.stats().tiers.find(({ tier }) => tier === name);
  }

  /** Token ids in, token ids out. */
  async generate(tokenIds, maxTokens, { params, salt } = {}) {
    const body = { token_ids: tokenIds, sampling_params: { max_tokens: maxTokens, temperature: 0, ignore_eos: true }, ...(params === undefined ? {} : { kv_transfer_params: params }), ...(salt === undefined ? {} : { cache_salt: salt }) };
    const started = performance.now();
    const response = await fetch(`${this.server.url}/inference/v1/generate`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) });
    const text = await response.text();
    if (!response.ok) throw new Error(`${this.name} answered ${response.status}: ${text.slice(0, 500)}`);
    const answer = JSON.parse(text);
    return { tokens: answer.choices[0].token_ids, params: answer.kv_transfer_params ?? undefined, tookMs: performance.now() - started };
  }

  /** Our worker ends; vLLM goes on, and looks for another at the same path. */
  async endTiers() {
    await this.connector.close();
    await this.manager?.close();
    await this.agent?.close();
    if (this.disk !== undefined) rmSync(this.disk, { recursive: true, force: true });
  }

  async close() {
    await this.server.stop();
    await this.endTiers();
  }
}
