import type { Clock, Logger, TransferTransport } from '@armature/contracts';
import { FileTransport } from './file/file-transport.ts';
import { MemoryTransport } from './memory-transport.ts';
import { ShmTransport } from './shm/shm-transport.ts';
import { TcpTransport } from './tcp/tcp-transport.ts';

const nothing = (): void => undefined;

/** Says nothing. */
export const silentLog: Logger = { debug: nothing, info: nothing, warn: nothing, error: nothing, child: () => silentLog, isEnabled: () => false };

export interface DefaultTransportOptions {
  readonly clock: Clock;
  readonly log: Logger;
  /** Shared secret of all agents that may connect; proved by HMAC, never sent. Default: none, which is for loopback. */
  readonly token?: string | undefined;
}

/** Agents of one process meet in the same instance; those of another clock live in another time. */
const memories = new WeakMap<Clock, MemoryTransport>();

/**
 * The built-in transports that work here, on loopback: `memory`, `shm`, `tcp`, `file`. `cma` is not among them: it is for processes that
 * trust each other fully, so it must be asked for; nor are those that need an address, a device or a library.
 */
export function defaultTransports({ clock, log, token = '' }: DefaultTransportOptions): TransferTransport[] {
  let memory = memories.get(clock);
  if (memory === undefined) memories.set(clock, (memory = new MemoryTransport({ clock })));
  const all: TransferTransport[] = [memory, new ShmTransport({ clock, log, token }), new TcpTransport({ clock, log, token }), new FileTransport({ clock, log })];
  return all.filter((transport) => transport.unavailable() === undefined);
}
