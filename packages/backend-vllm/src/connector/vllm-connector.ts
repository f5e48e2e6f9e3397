import { randomUUID } from 'node:crypto';
import { ArmatureError } from '@armature/contracts';
import type { Clock, KvBlockFormat, KvConnector, KvHostAccess, KvLender, Logger, Metrics } from '@armature/contracts';
import { exportCounts } from './connector-metrics.ts';
import { EngineLink } from './engine-link.ts';
import type { Held, LinkHost, LinkRole } from './engine-link.ts';
import { blockFormat, CONNECTOR_VERSION, differences, mismatch, parseBlockSize, parseFormat } from './format.ts';
import type { ConnectorFormat } from './format.ts';
import { invalid } from './frames.ts';
import type { Frame } from './frames.ts';
import { lenderWords } from './lender.ts';
import { listenOnFile } from './socket-file.ts';
import type { SocketFile } from './socket-file.ts';
import { noCounts } from './stats.ts';
import type { ConnectorCounts } from './stats.ts';

const READY_STEP_MS = 20;

export interface ConnectorOptions {
  /** Tokens of a block in our configuration. */
  readonly blockSize: number;
  /** For a vLLM that somebody else starts. Default: a path of its own, which the supervised vLLM is told. */
  readonly socketPath?: string;
  /** What else vLLM's blocks must be; absent fields are taken as vLLM says. */
  readonly expect?: Partial<ConnectorFormat>;
  /** Longest wait of a request for blocks of the tiers, in milliseconds; told to vLLM's side. */
  readonly fetchDeadlineMs?: number;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics?: { readonly metrics: Metrics; readonly labels: readonly [model: string, pool: string] };
}

/** Opens the socket for one vLLM engine. Throws `VLLM_CONNECTOR_SOCKET_FAILED`. */
export async function openConnector(options: ConnectorOptions): Promise<VllmConnector> {
  return new VllmConnector(options, await listenOnFile(options.socketPath));
}

/** Our side of the connector: matches, pins and fills blocks of the worker's host tier for one vLLM engine, whose Python side copies them. */
export class VllmConnector implements KvConnector, LinkHost {
  readonly counts: ConnectorCounts = noCounts();
  readonly held: Held = { leases: new Set(), reservations: new Set() };
  readonly socketPath: string;
  readonly log: Logger;
  readonly #options: ConnectorOptions;
  readonly #file: SocketFile;
  readonly #links = new Set<EngineLink>();
  #format: ConnectorFormat | undefined = undefined;
  #refusal: ArmatureError | undefined = undefined;
  #access: KvHostAccess | undefined = undefined;
  #self: KvLender | undefined = undefined;
  #epoch = '';
  readonly #endMetrics: () => void;
  #closing: Promise<void> | undefined = undefined;

  constructor(options: ConnectorOptions, file: SocketFile) {
    this.#options = options;
    this.log = options.log;
    this.#file = file;
    this.socketPath = file.path;
    this.#endMetrics = options.metrics === undefined ? () => undefined : exportCounts({ ...options.metrics, counts: this.counts, isConnected: () => this.isConnected });
    const { server } = file;
    server.on('error', (error) => options.log.error("the socket for vLLM's connector failed", { reason: error.message }));
    server.on('connection', (socket) => void this.#links.add(new EngineLink(socket, this)));
  }

  get blockSize(): number {
    return this.#options.blockSize;
  }

  /** For vLLM's `--kv-transfer-config`. */
  transferConfig(kvRole: 'kv_both' | 'kv_producer' | 'kv_consumer' = 'kv_both'): Readonly<Record<string, unknown>> {
    return {
      kv_connector: 'ArmatureConnector',
      kv_connector_module_path: 'armature_vllm.connector',
      kv_role: kvRole,
      kv_load_failure_policy: 'recompute',
      kv_connector_extra_config: { socket: this.socketPath, ...(this.#options.fetchDeadlineMs === undefined ? {} : { fetch_deadline_ms: this.#options.fetchDeadlineMs }) },
    };
  }

  /** vLLM's scheduler and worker are connected. */
  get isConnected(): boolean {
    return this.#linkOf('worker') !== undefined && this.#linkOf('scheduler') !== undefined;
  }

  /** Throws `VLLM_CONNECTOR_ABSENT` when vLLM does not connect in time, or why it was refused. */
  async ready(deadlineMs: number): Promise<void> {
    const { clock } = this.#options;
    const endMs = clock.nowMs() + deadlineMs;
    while (!this.isConnected) {
      if (this.#refusal !== undefined) throw this.#refusal;
      if (clock.nowMs() >= endMs) throw absent(deadlineMs);
      await clock.sleep(READY_STEP_MS);
    }
  }

  format(): KvBlockFormat {
    if (this.#format === undefined) throw this.#refusal ?? absent(0);
    return blockFormat(this.#format);
  }

  access(): KvHostAccess | undefined {
    return this.#access;
  }

  /** Names this use of these tiers: leases and reservations of another one are numbers of something else. */
  get epoch(): string {
    return this.#epoch;
  }

  attach(host: KvHostAccess, self: KvLender): void {
    this.#access = host;
    this.#self = self;
    this.#epoch = randomUUID();
    if (host.location === undefined) this.log.warn('the host tier is plain memory: vLLM cannot map it and computes everything', { code: 'VLLM_CONNECTOR_NO_MAPPING' });
    for (const link of this.#links) if (link.role !== undefined) this.#sendPool(link);
  }

  detach(): void {
    for (const link of this.#links) if (link.role !== undefined) link.send({ op: 'detached' });
    this.#giveBack();
    this.#access = undefined;
    this.#self = undefined;
    this.#epoch = '';
  }

  /** Requests whose blocks are known, over all links. */
  get prompts(): number {
    return [...this.#links].reduce((sum, link) => sum + link.prompts, 0);
  }

  hello(link: EngineLink, head: Frame['head']): LinkRole {
    const { role } = head;
    if (role !== 'scheduler' && role !== 'worker') throw invalid(`a hello of role ${String(role)}`);
    try {
      this.#check(role, head);
    } catch (error) {
      this.#refusal = ArmatureError.from(error);
      throw error;
    }
    this.#refusal = undefined;
    this.counts.links++;
    // The engine was started again: its former life's socket may not have noticed yet.
    const former = this.#linkOf(role);
    if (former !== undefined) this.#end(former);
    link.send({ op: 'welcome', version: CONNECTOR_VERSION });
    if (this.#access !== undefined) this.#sendPool(link);
    this.log.info("vLLM's connector is connected", { role, ...this.#format });
    return role;
  }

  closed(link: EngineLink): void {
    if (!this.#end(link)) return;
    if (this.#closing === undefined) this.log.warn("the connection to vLLM's connector has ended: what it held is given back", { role: link.role });
  }

  close(): Promise<void> {
    return (this.#closing ??= this.#close());
  }

  async #close(): Promise<void> {
    this.detach();
    this.#endMetrics();
    for (const link of this.#links) link.destroy();
    await this.#file.close();
  }

  /** The scheduler knows the size of blocks, the worker what is in them. */
  #check(role: LinkRole, head: Frame['head']): void {
    if (head['version'] !== CONNECTOR_VERSION) throw mismatch([`the connector's protocol is ${CONNECTOR_VERSION} here, ${String(head['version'])} in vLLM`]);
    const { blockSize, expect } = this.#options;
    const theirs = role === 'worker' ? parseFormat(head['format']) : parseBlockSize(head['format']);
    const wrong = differences({ ...expect, blockSize }, theirs);
    // The tiers hold blocks of the first one.
    if (wrong.length === 0 && this.#format !== undefined) wrong.push(...differences(this.#format, theirs));
    if (wrong.length > 0) throw mismatch(wrong);
    if (role === 'worker') this.#format = theirs as ConnectorFormat;
  }

  /** Once for each link: what its engine held goes back before another one takes anything. False: it had no say. */
  #end(link: EngineLink): boolean {
    if (!this.#links.delete(link) || link.role === undefined) return false;
    link.destroy();
    this.#giveBack();
    return true;
  }

  #linkOf(role: LinkRole): EngineLink | undefined {
    for (const link of this.#links) if (link.role === role) return link;
    return undefined;
  }

  #sendPool(link: EngineLink): void {
    const access = this.#access;
    if (access?.location === undefined || this.#self === undefined) return;
    const { pid, startTicks, fd, offsetBytes } = access.location.mapping;
    const { blocks, blockStrideBytes } = access.memory;
    link.send({ op: 'pool', pid, startTicks, fd, offsetBytes, epoch: this.#epoch, blocks, blockStrideBytes, lender: lenderWords(this.#self) });
  }

  /** Pins dropped, slots that were not committed freed. */
  #giveBack(): void {
    const { leases, reservations } = this.held;
    this.counts.abandonedLeases += leases.size;
    this.counts.abandonedReservations += reservations.size;
    for (const lease of leases) this.#access?.release(lease);
    for (const reservation of reservations) this.#access?.commit(reservation, 0, () => undefined);
    leases.clear();
    reservations.clear();
  }
}

function absent(waitedMs: number): ArmatureError {
  return new ArmatureError('VLLM_CONNECTOR_ABSENT', `vLLM's connector has not connected${waitedMs > 0 ? ` within ${waitedMs} ms` : ''}`, {
    hint: "install armature-vllm into vLLM's environment and start vLLM with the --kv-transfer-config that this backend prints",
  });
}
