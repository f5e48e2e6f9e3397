import type { Clock, Logger, Timer } from '@armature/contracts';
import { NixlMemory, NixlResult } from './binding.ts';
import type { NixlAgent, NixlHandle, NixlLibrary, NixlMemory as Memory, NixlRegistration, NixlRows } from './binding.ts';

// A library in memory with the rules of the real one that this package depends on. Bytes move in `status` (or in `post` with `inline`).

export interface RecordingLogger extends Logger {
  readonly lines: { level: string; message: string; fields: unknown }[];
}

export function recordingLogger(): RecordingLogger {
  const lines: RecordingLogger['lines'] = [];
  const at = (level: string) => (message: string, fields?: unknown) => void lines.push({ level, message, fields });
  const log: RecordingLogger = { lines, debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error'), child: () => log, isEnabled: () => true };
  return log;
}

interface Region {
  readonly address: bigint;
  readonly length: number;
  readonly device: bigint;
  readonly bytes: Uint8Array;
}

interface FakeRequest {
  readonly op: 'read' | 'write';
  readonly local: Prepared;
  readonly remote: Prepared;
  readonly rows: Int32Array;
  state: number;
  looks: number;
  notification: Uint8Array | undefined;
}

interface Prepared {
  readonly peer: string;
  readonly generation: number;
  readonly rows: NixlRows;
}

export class FakeNixl implements NixlLibrary {
  readonly path = '/fake/libnixl_capi.so';
  readonly version: string;
  readonly agents = new Map<string, FakeAgent>();
  /** Looks until a request has ended; 0: inside its post. */
  looksPerRequest = 2;
  /** Agents whose requests never end, by name. */
  readonly stuck = new Set<string>();
  /** Sees what was copied; sabotage changes it. */
  tap: ((bytes: Uint8Array) => void) | undefined = undefined;
  /** Failures to come from `post`, first first. */
  readonly failures: number[] = [];
  readonly counts = { agents: 0, requests: 0, released: 0, prepared: 0, registrations: 0, abandoned: 0, posts: 0 };
  readonly #addresses = new Map<ArrayBufferLike, bigint>();
  #next = 1n << 32n;

  constructor(version = '1.5.1') {
    this.version = version;
  }

  address(bytes: Uint8Array): bigint {
    let base = this.#addresses.get(bytes.buffer);
    if (base === undefined) {
      base = this.#next;
      this.#next += BigInt(bytes.buffer.byteLength) + 4096n;
      this.#addresses.set(bytes.buffer, base);
    }
    return base + BigInt(bytes.byteOffset);
  }

  view(address: bigint, length: number): Uint8Array {
    for (const [buffer, base] of this.#addresses) {
      if (address >= base && address + BigInt(length) <= base + BigInt(buffer.byteLength)) return new Uint8Array(buffer, Number(address - base), length);
    }
    throw new Error(`no memory at ${address}`);
  }

  createAgent(name: string): NixlAgent {
    const agent = new FakeAgent(this, name);
    this.agents.set(name, agent);
    this.counts.agents++;
    return agent;
  }

  /** As if its process had been killed. */
  kill(name: string): void {
    this.agents.delete(name);
  }
}

const text = (value: unknown): Uint8Array => Buffer.from(JSON.stringify(value));

export class FakeAgent implements NixlAgent {
  readonly name: string;
  readonly regions = new Set<Region>();
  readonly inbox: { peer: string; payload: Uint8Array }[] = [];
  readonly #library: FakeNixl;
  readonly #objects = new Map<NixlHandle, FakeRequest | Prepared | Region>();
  /** Peer → generation and known keys. */
  readonly #remotes = new Map<string, { generation: number; isBroken: boolean; keys: { address: bigint; length: number; device: bigint }[] }>();
  #next = 1n;
  #generation = 0;

  constructor(library: FakeNixl, name: string) {
    this.#library = library;
    this.name = name;
  }

  plugins(): readonly string[] {
    return ['UCX', 'POSIX'];
  }

  createBackend(): NixlHandle {
    return this.#next++;
  }

  register(backend: NixlHandle, memory: Memory, row: { readonly address: bigint; readonly length: number; readonly device: bigint }): NixlRegistration {
    const region: Region = { ...row, bytes: memory === NixlMemory.Dram ? this.#library.view(row.address, row.length) : new Uint8Array(0) };
    this.regions.add(region);
    this.#library.counts.registrations++;
    return { memory, list: this.#keep(region), backend };
  }

  deregister(registration: NixlRegistration): number {
    this.regions.delete(this.#objects.get(registration.list) as Region);
    this.#objects.delete(registration.list);
    this.#library.counts.registrations--;
    return NixlResult.Success;
  }

  metadata(_backend: NixlHandle, registration: NixlRegistration | undefined): Uint8Array {
    if (registration === undefined) return text({ agent: this.name });
    const { address, length, device } = this.#objects.get(registration.list) as Region;
    return text({ agent: this.name, key: { address: String(address), length, device: String(device) } });
  }

  load(metadata: Uint8Array): string | number {
    let parsed: { agent?: unknown; key?: { address: string; length: number; device: string } };
    try {
      parsed = JSON.parse(Buffer.from(metadata).toString()) as typeof parsed;
    } catch {
      return NixlResult.Backend;
    }
    if (typeof parsed.agent !== 'string') return NixlResult.Backend;
    let remote = this.#remotes.get(parsed.agent);
    if (remote === undefined) this.#remotes.set(parsed.agent, (remote = { generation: ++this.#generation, isBroken: false, keys: [] }));
    if (parsed.key !== undefined) remote.keys.push({ address: BigInt(parsed.key.address), length: parsed.key.length, device: BigInt(parsed.key.device) });
    return parsed.agent;
  }

  invalidate(name: string): number {
    return this.#remotes.delete(name) ? NixlResult.Success : NixlResult.NotFound;
  }

  knows(name: string): boolean {
    return this.#remotes.has(name);
  }

  prepare(_backend: NixlHandle, peer: string, _memory: Memory, rows: NixlRows): NixlHandle {
    const remote = this.#remotes.get(peer);
    if (peer !== '' && peer !== this.name && remote === undefined) return 0n;
    const known = peer === '' || peer === this.name ? [...this.regions] : remote!.keys;
    for (let i = 0; i < rows.count; i++) {
      const address = rows.addresses[i]!;
      const end = address + BigInt(rows.lengths[i]!);
      if (!known.some((key) => key.device === rows.devices[i] && address >= key.address && end <= key.address + BigInt(key.length))) return 0n;
    }
    this.#library.counts.prepared++;
    return this.#keep({ peer, generation: remote?.generation ?? 0, rows });
  }

  releasePrepared(prepared: NixlHandle): void {
    if (!this.#objects.delete(prepared)) throw new Error('released twice');
    this.#library.counts.prepared--;
  }

  request(_backend: NixlHandle, op: 'read' | 'write', local: NixlHandle, rows: Int32Array, remote: NixlHandle): NixlHandle {
    this.#library.counts.requests++;
    const prepared = (handle: NixlHandle): Prepared => this.#objects.get(handle) as Prepared;
    return this.#keep({ op, local: prepared(local), remote: prepared(remote), rows, state: NixlResult.InvalidState, looks: 0, notification: undefined });
  }

  post(request: NixlHandle, notification: Uint8Array | undefined): number {
    this.#library.counts.posts++;
    const it = this.#objects.get(request) as FakeRequest;
    if (it.state === NixlResult.InProgress) return NixlResult.Backend;
    const failure = this.#library.failures.shift();
    if (failure !== undefined) return failure;
    it.notification = notification?.slice();
    it.looks = 0;
    it.state = NixlResult.InProgress;
    return this.#library.looksPerRequest === 0 ? this.status(request) : this.#lost(it.remote) ? NixlResult.Backend : NixlResult.InProgress;
  }

  status(request: NixlHandle): number {
    const it = this.#objects.get(request) as FakeRequest;
    if (it.state !== NixlResult.InProgress) return it.state;
    if (this.#lost(it.remote)) return (it.state = NixlResult.Backend);
    if (this.#library.stuck.has(it.remote.peer) || ++it.looks < this.#library.looksPerRequest) return NixlResult.InProgress;
    this.#move(it);
    if (it.notification !== undefined) this.#library.agents.get(it.remote.peer)?.inbox.push({ peer: this.name, payload: it.notification });
    return (it.state = NixlResult.Success);
  }

  releaseRequest(request: NixlHandle): void {
    const it = this.#objects.get(request) as FakeRequest | undefined;
    if (it === undefined) throw new Error('released twice');
    if (it.state === NixlResult.InProgress) this.#library.counts.abandoned++;
    this.#objects.delete(request);
    this.#library.counts.released++;
  }

  notify(peer: string, payload: Uint8Array): number {
    if (!this.#remotes.has(peer)) return NixlResult.NotFound;
    const agent = this.#library.agents.get(peer);
    if (agent === undefined) return NixlResult.Backend;
    agent.inbox.push({ peer: this.name, payload: payload.slice() });
    return NixlResult.Success;
  }

  notifications(receive: (peer: string, payload: Uint8Array) => void): number {
    const found = this.inbox.splice(0);
    for (const { peer, payload } of found) receive(peer, payload);
    return found.length;
  }

  destroy(): void {
    this.#library.agents.delete(this.name);
    this.#library.counts.agents--;
  }

  #lost(remote: Prepared): boolean {
    if (remote.peer === this.name) return false;
    return this.#remotes.get(remote.peer)?.generation !== remote.generation || !this.#library.agents.has(remote.peer);
  }

  #move({ op, local, remote, rows }: FakeRequest): void {
    for (const row of rows) {
      const length = local.rows.lengths[row]!;
      const here = this.#library.view(local.rows.addresses[row]!, length);
      const there = this.#library.view(remote.rows.addresses[row]!, length);
      const target = op === 'read' ? here : there;
      target.set(op === 'read' ? there : here);
      this.#library.tap?.(target);
    }
  }

  #keep(object: FakeRequest | Prepared | Region): NixlHandle {
    const handle = this.#next++;
    this.#objects.set(handle, object);
    return handle;
  }
}

/** Time that moves by `elapse` only, in one go; deferred callbacks come before time passes. */
export class SteppedClock implements Clock {
  #nowMs = 0;
  #timers: { atMs: number; callback: () => void }[] = [];
  #deferred: (() => void)[] = [];

  get pendingTimers(): number {
    return this.#timers.length;
  }
  nowMs(): number {
    return this.#nowMs;
  }
  wallMs(): number {
    return this.#nowMs;
  }
  setTimer(delayMs: number, callback: () => void): Timer {
    const timer = { atMs: this.#nowMs + delayMs, callback };
    this.#timers.push(timer);
    return timer;
  }
  clearTimer(timer: Timer): void {
    this.#timers = this.#timers.filter((other) => other !== timer);
  }
  defer(callback: () => void): void {
    this.#deferred.push(callback);
  }
  sleep(delayMs: number): Promise<void> {
    return new Promise((resolve) => this.setTimer(delayMs, resolve));
  }
  elapse(ms: number): void {
    const endMs = this.#nowMs + ms;
    for (;;) {
      this.turn();
      this.#timers.sort((a, b) => a.atMs - b.atMs);
      const next = this.#timers[0];
      if (next === undefined || next.atMs > endMs + 1e-9) break;
      this.#timers.shift();
      this.#nowMs = Math.max(this.#nowMs, next.atMs);
      next.callback();
    }
    this.#nowMs = endMs;
  }
  /** Runs what was deferred, and what that defers, at most 1,000 times. */
  turn(): void {
    for (let i = 0; i < 1000 && this.#deferred.length > 0; i++) for (const callback of this.#deferred.splice(0)) callback();
  }
}
