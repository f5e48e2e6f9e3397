import { isMainThread } from 'node:worker_threads';
import koffi from 'koffi';
import { ArmatureError } from '@armature/contracts';
import { NixlResult } from './binding.ts';
import type { NixlAgent, NixlHandle, NixlLibrary, NixlMemory, NixlRegistration, NixlRows } from './binding.ts';

// The C API of NIXL (`nixl_capi_*`, libnixl_capi.so). Prototypes written from its documentation; names and order of arguments are its ABI.
const PROTOTYPES = {
  is_stub: 'bool nixl_capi_is_stub()',
  create_agent: 'int nixl_capi_create_configured_agent(const char *name, const void *config, _Out_ void **agent)',
  destroy_agent: 'int nixl_capi_destroy_agent(void *agent)',
  plugins: 'int nixl_capi_get_available_plugins(void *agent, _Out_ void **list)',
  strings_size: 'int nixl_capi_string_list_size(void *list, _Out_ size_t *size)',
  strings_get: 'int nixl_capi_string_list_get(void *list, size_t index, _Out_ const char **text)',
  strings_free: 'int nixl_capi_destroy_string_list(void *list)',
  params: 'int nixl_capi_create_params(_Out_ void **params)',
  params_add: 'int nixl_capi_params_add(void *params, const char *key, const char *value)',
  params_free: 'int nixl_capi_destroy_params(void *params)',
  backend: 'int nixl_capi_create_backend(void *agent, const char *plugin, void *params, _Out_ void **backend)',
  backend_free: 'int nixl_capi_destroy_backend(void *backend)',
  opts: 'int nixl_capi_create_opt_args(_Out_ void **opts)',
  opts_free: 'int nixl_capi_destroy_opt_args(void *opts)',
  opts_backend: 'int nixl_capi_opt_args_add_backend(void *opts, void *backend)',
  opts_message: 'int nixl_capi_opt_args_set_notif_msg(void *opts, const void *data, size_t length)',
  opts_notifies: 'int nixl_capi_opt_args_set_has_notif(void *opts, bool notifies)',
  opts_no_merge: 'int nixl_capi_opt_args_set_skip_desc_merge(void *opts, bool skip)',
  regs: 'int nixl_capi_create_reg_dlist(int memory, _Out_ void **list)',
  regs_add: 'int nixl_capi_reg_dlist_add_desc(void *list, uintptr_t address, size_t length, uint64_t device, const void *info, size_t infoLength)',
  regs_free: 'int nixl_capi_destroy_reg_dlist(void *list)',
  register: 'int nixl_capi_register_mem(void *agent, void *list, void *opts)',
  deregister: 'int nixl_capi_deregister_mem(void *agent, void *list, void *opts)',
  partial_md: 'int nixl_capi_get_local_partial_md(void *agent, void *list, _Out_ void **data, _Out_ size_t *length, void *opts)',
  load_md: 'int nixl_capi_load_remote_md(void *agent, const void *data, size_t length, _Out_ void **name)',
  invalidate_md: 'int nixl_capi_invalidate_remote_md(void *agent, const char *name)',
  check_md: 'int nixl_capi_check_remote_md(void *agent, const char *name, void *list)',
  rows: 'int nixl_capi_create_xfer_dlist(int memory, _Out_ void **list)',
  rows_add: 'int nixl_capi_xfer_dlist_add_desc(void *list, uint64_t address, size_t length, uint64_t device)',
  rows_free: 'int nixl_capi_destroy_xfer_dlist(void *list)',
  prepare: 'int nixl_capi_prep_xfer_dlist(void *agent, const char *peer, void *list, _Out_ void **prepared, void *opts)',
  prepared_free: 'int nixl_capi_release_xfer_dlist_handle(void *agent, void *prepared)',
  request:
    'int nixl_capi_make_xfer_req(void *agent, int op, void *local, const int32_t *localRows, size_t localCount, void *remote, const int32_t *remoteRows, size_t remoteCount, _Out_ void **request, void *opts)',
  post: 'int nixl_capi_post_xfer_req(void *agent, void *request, void *opts)',
  status: 'int nixl_capi_get_xfer_status(void *agent, void *request)',
  request_release: 'int nixl_capi_release_xfer_req(void *agent, void *request)',
  request_free: 'int nixl_capi_destroy_xfer_req(void *request)',
  notify: 'int nixl_capi_gen_notif(void *agent, const char *peer, const void *data, size_t length, void *opts)',
  notifs: 'int nixl_capi_create_notif_map(_Out_ void **map)',
  notifs_free: 'int nixl_capi_destroy_notif_map(void *map)',
  notifs_get: 'int nixl_capi_get_notifs(void *agent, void *map, void *opts)',
  notifs_size: 'int nixl_capi_notif_map_size(void *map, _Out_ size_t *size)',
  notifs_agent: 'int nixl_capi_notif_map_get_agent_at(void *map, size_t index, _Out_ const char **agent)',
  notifs_count: 'int nixl_capi_notif_map_get_notifs_size(void *map, const char *agent, _Out_ size_t *size)',
  notifs_at: 'int nixl_capi_notif_map_get_notif(void *map, const char *agent, size_t index, _Out_ void **data, _Out_ size_t *length)',
  notifs_clear: 'int nixl_capi_notif_map_clear(void *map)',
} as const;

type Call = (...values: unknown[]) => number;
type Calls = Readonly<Record<keyof typeof PROTOTYPES, Call>>;

const DRAM = 0;
const MD_LIMIT_BYTES = 1 << 20;

/** Loads the library by local scope: its UCX does not meet another UCX of the process. Throws `TRANSFER_NIXL_UNAVAILABLE`. */
export function loadNixl(path: string, version: string): NixlLibrary {
  const calls = bind(path);
  if ((calls.is_stub as unknown as () => boolean)()) {
    throw new ArmatureError('TRANSFER_NIXL_UNAVAILABLE', `${path} is NIXL's stub library, which does nothing`, { hint: 'install the real one: pip install --no-deps nixl-cu12' });
  }
  return { path, version, address: (bytes) => koffi.address(bytes) as bigint, createAgent: (name, { progressThread }) => new CapiAgent(calls, name, progressThread) };
}

function bind(path: string): Calls {
  try {
    const library = koffi.load(path);
    leaveQuickly();
    return Object.fromEntries(Object.entries(PROTOTYPES).map(([name, prototype]) => [name, library.func(prototype)])) as unknown as Calls;
  } catch (error) {
    throw new ArmatureError('TRANSFER_NIXL_UNAVAILABLE', `cannot use ${path}: ${error instanceof Error ? error.message : String(error)}`, {
      hint: 'install NIXL 1.3 or later: pip install --no-deps nixl-cu12',
      cause: error,
    });
  }
}

let leavesQuickly = false;

/**
 * The wheel's libnl-route (of its UCX) crashes in its destructor when a process that used it exits (seen with 1.5.1: SIGSEGV in `rtnl_tc_unregister`
 * below `_dl_fini`). Everything JavaScript has to do at exit is done by then, so the process ends by `_exit`, without native destructors.
 */
function leaveQuickly(): void {
  if (leavesQuickly || !isMainThread) return;
  leavesQuickly = true;
  const exit = koffi.load(null).func('void _exit(int code)') as unknown as (code: number) => void;
  const last = (code: number): void => {
    const listeners = process.listeners('exit');
    for (const later of listeners.slice(listeners.indexOf(last) + 1)) later.call(process, code);
    exit(Number(process.exitCode ?? code));
  };
  process.on('exit', last);
}

function failed(call: string, result: number): ArmatureError {
  return new ArmatureError('TRANSFER_NIXL_FAILED', `nixl_capi ${call} returned ${result}`, { hint: 'NIXL says why on stderr; NIXL_LOG_LEVEL=DEBUG and UCX_LOG_LEVEL=info say more' });
}

/** `nixl_capi_agent_config_t`. */
function agentConfig(progressThread: boolean): Buffer {
  const config = Buffer.alloc(48);
  config[0] = progressThread ? 1 : 0;
  config.writeUInt32LE(1, 12); // workers
  config.writeBigUInt64LE(1000n, 16); // longest sleep of the progress thread, microseconds
  config.writeBigUInt64LE(100_000n, 24); // of the listener, which is off
  return config;
}

const NOTHING = new Int8Array(1);

class CapiAgent implements NixlAgent {
  readonly name: string;
  readonly #calls: Calls;
  readonly #agent: NixlHandle;
  readonly #map: NixlHandle;
  readonly #backends: NixlHandle[] = [];
  /** Options by what they say; the library copies what it needs during the call. */
  readonly #silent: NixlHandle;
  readonly #hints = new Map<NixlHandle, NixlHandle>();
  readonly #size = [0];
  #isDestroyed = false;

  constructor(calls: Calls, name: string, progressThread: boolean) {
    this.name = name;
    this.#calls = calls;
    this.#agent = this.#made('create_agent', name, agentConfig(progressThread));
    this.#map = this.#made('notifs');
    this.#silent = this.#made('opts');
    this.#checked('opts_notifies', this.#silent, false);
  }

  plugins(): readonly string[] {
    const list = this.#made('plugins', this.#agent);
    const size = [0];
    this.#checked('strings_size', list, size);
    const names = Array.from({ length: Number(size[0]) }, (_, i) => {
      const text = [''];
      this.#checked('strings_get', list, i, text);
      return text[0]!;
    });
    this.#calls.strings_free(list);
    return names;
  }

  createBackend(plugin: string, params: Readonly<Record<string, string>>): NixlHandle {
    const map = this.#made('params');
    try {
      for (const [key, value] of Object.entries(params)) this.#checked('params_add', map, key, value);
      const backend = this.#made('backend', this.#agent, plugin, map);
      this.#backends.push(backend);
      const hint = this.#made('opts');
      this.#hints.set(backend, hint);
      this.#checked('opts_backend', hint, backend);
      this.#checked('opts_no_merge', hint, true);
      return backend;
    } finally {
      this.#calls.params_free(map);
    }
  }

  register(backend: NixlHandle, memory: NixlMemory, row: { readonly address: bigint; readonly length: number; readonly device: bigint }): NixlRegistration {
    const list = this.#made('regs', memory);
    this.#checked('regs_add', list, row.address, row.length, row.device, NOTHING, 0);
    const result = this.#calls.register(this.#agent, list, this.#hints.get(backend));
    if (result === NixlResult.Success) return { memory, list, backend };
    this.#calls.regs_free(list);
    throw failed('register_mem', result);
  }

  deregister(registration: NixlRegistration): number {
    const result = this.#calls.deregister(this.#agent, registration.list, this.#hints.get(registration.backend));
    this.#calls.regs_free(registration.list);
    return result;
  }

  metadata(backend: NixlHandle, registration: NixlRegistration | undefined): Uint8Array {
    const list = registration?.list ?? this.#made('regs', DRAM);
    const [data, length]: [NixlHandle[], number[]] = [[0n], [0]];
    const result = this.#calls.partial_md(this.#agent, list, data, length, this.#hints.get(backend));
    if (registration === undefined) this.#calls.regs_free(list);
    if (result !== NixlResult.Success) throw failed('get_local_partial_md', result);
    const bytes = new Uint8Array(koffi.view(data[0]!, Number(length[0]))).slice();
    koffi.free(data[0]!);
    return bytes;
  }

  load(metadata: Uint8Array): string | number {
    if (metadata.length === 0 || metadata.length > MD_LIMIT_BYTES) return NixlResult.InvalidParam;
    const name: NixlHandle[] = [0n];
    const result = this.#calls.load_md(this.#agent, metadata, metadata.length, name);
    if (result !== NixlResult.Success) return result;
    const text = koffi.decode(name[0]!, 'char', -1) as string;
    koffi.free(name[0]!);
    return text;
  }

  invalidate(name: string): number {
    return this.#calls.invalidate_md(this.#agent, name);
  }

  knows(name: string): boolean {
    return this.#calls.check_md(this.#agent, name, null) === NixlResult.Success;
  }

  prepare(backend: NixlHandle, peer: string, memory: NixlMemory, rows: NixlRows): NixlHandle {
    const list = this.#made('rows', memory);
    const { rows_add: add } = this.#calls;
    for (let i = 0; i < rows.count; i++) add(list, rows.addresses[i], rows.lengths[i], rows.devices[i]);
    const prepared: NixlHandle[] = [0n];
    const result = this.#calls.prepare(this.#agent, peer, list, prepared, this.#hints.get(backend));
    this.#calls.rows_free(list);
    return result === NixlResult.Success ? prepared[0]! : 0n;
  }

  releasePrepared(prepared: NixlHandle): void {
    this.#calls.prepared_free(this.#agent, prepared);
  }

  request(backend: NixlHandle, op: 'read' | 'write', local: NixlHandle, localRows: Int32Array, remote: NixlHandle, remoteRows: Int32Array): NixlHandle {
    const made: NixlHandle[] = [0n];
    const hint = this.#hints.get(backend);
    const result = this.#calls.request(this.#agent, op === 'read' ? 0 : 1, local, localRows, localRows.length, remote, remoteRows, remoteRows.length, made, hint);
    return result === NixlResult.Success ? made[0]! : 0n;
  }

  post(request: NixlHandle, notification: Uint8Array | undefined): number {
    // Without options the library would repeat the notification of the post before.
    if (notification === undefined) return this.#calls.post(this.#agent, request, this.#silent);
    const opts = this.#made('opts');
    this.#checked('opts_message', opts, notification, notification.length);
    this.#checked('opts_notifies', opts, true);
    const result = this.#calls.post(this.#agent, request, opts);
    this.#calls.opts_free(opts);
    return result;
  }

  status(request: NixlHandle): number {
    return this.#calls.status(this.#agent, request);
  }

  releaseRequest(request: NixlHandle): void {
    this.#calls.request_release(this.#agent, request);
    this.#calls.request_free(request);
  }

  notify(peer: string, payload: Uint8Array): number {
    return this.#calls.notify(this.#agent, peer, payload, payload.length, null);
  }

  notifications(receive: (peer: string, payload: Uint8Array) => void): number {
    if (this.#calls.notifs_get(this.#agent, this.#map, null) !== NixlResult.Success) return 0;
    this.#calls.notifs_size(this.#map, this.#size);
    const agents = Number(this.#size[0]);
    if (agents === 0) return 0;
    const found: { peer: string; payload: Uint8Array }[] = [];
    for (let i = 0; i < agents; i++) this.#collect(i, found);
    // First emptied, then told: a receiver may come back here.
    this.#calls.notifs_clear(this.#map);
    for (const { peer, payload } of found) receive(peer, payload);
    return found.length;
  }

  #collect(index: number, into: { peer: string; payload: Uint8Array }[]): void {
    const [name, count]: [string[], number[]] = [[''], [0]];
    this.#checked('notifs_agent', this.#map, index, name);
    const peer = name[0]!;
    this.#checked('notifs_count', this.#map, peer, count);
    for (let i = 0; i < Number(count[0]); i++) {
      const [data, length]: [NixlHandle[], number[]] = [[0n], [0]];
      this.#checked('notifs_at', this.#map, peer, i, data, length);
      const bytes = Number(length[0]);
      into.push({ peer, payload: bytes === 0 ? new Uint8Array(0) : new Uint8Array(koffi.view(data[0]!, bytes)).slice() });
    }
  }

  destroy(): void {
    if (this.#isDestroyed) return;
    this.#isDestroyed = true;
    for (const hint of [...this.#hints.values(), this.#silent]) this.#calls.opts_free(hint);
    this.#calls.notifs_free(this.#map);
    this.#calls.destroy_agent(this.#agent);
    for (const backend of this.#backends) this.#calls.backend_free(backend);
  }

  #made(call: keyof Calls, ...values: unknown[]): NixlHandle {
    const out: NixlHandle[] = [0n];
    this.#checked(call, ...values, out);
    return out[0]!;
  }

  #checked(call: keyof Calls, ...values: unknown[]): void {
    const result = this.#calls[call](...values);
    if (result !== NixlResult.Success) throw failed(call, result);
  }
}
