import { ArmatureError } from '@armature/contracts';
import type { Clock, Logger, PluginContext, PluginDescriptor, TransferSegment, TransferTransport } from '@armature/contracts';
import { SystemClock } from '@armature/core';
import { CmaTransport, FileTransport, MemoryTransport, ShmTransport, TcpTransport, createAgent, createSharedMemory } from '@armature/nixel';
import type { Agent, SharedMemory } from '@armature/nixel';

/** One side of a benchmark: an agent with one transport and one segment. */
export interface Party {
  readonly agent: Agent;
  readonly segment: TransferSegment;
  /** The memory, where the transport needs it shared. */
  readonly memory: SharedMemory | undefined;
  close(): Promise<void>;
}

/** `memory` and `file` move within one process, the others between two. */
export const transportNames = ['shm', 'cma', 'tcp', 'nixl', 'memory', 'file'] as const;
export type TransportName = (typeof transportNames)[number];

const nothing = (): void => undefined;
const log: Logger = { debug: nothing, info: nothing, warn: nothing, error: (message, fields) => process.stderr.write(`${message} ${JSON.stringify(fields ?? {})}\n`), child: () => log, isEnabled: () => false };

async function open(name: TransportName, clock: Clock): Promise<TransferTransport> {
  switch (name) {
    case 'shm':
      return new ShmTransport({ clock, log });
    case 'cma':
      return new CmaTransport({ clock, log, sameUserTrust: true });
    case 'tcp':
      return new TcpTransport({ clock, log });
    case 'nixl':
      return openNixl(clock);
    case 'memory':
      return new MemoryTransport({ clock });
    case 'file':
      return new FileTransport({ clock, log });
  }
}

/** The fabric transport is a package of its own; nobody needs it to measure the others. */
async function openNixl(clock: Clock): Promise<TransferTransport> {
  const name: string = '@armature/nixel-nixl';
  try {
    const { nixlTransport } = (await import(name)) as { nixlTransport: PluginDescriptor<'transfer-transport', object> };
    const { properties } = nixlTransport.configSchema as { readonly properties: Readonly<Record<string, { readonly default: unknown }>> };
    const defaults = Object.fromEntries(Object.entries(properties).map(([field, schema]) => [field, schema.default]));
    return await nixlTransport.create(defaults, { clock, log } as PluginContext);
  } catch (error) {
    throw new ArmatureError('TRANSFER_NO_TRANSPORT', `the nixl transport cannot be loaded: ${(error as Error).message}`, { hint: 'npm install @armature/nixel-nixl' });
  }
}

/** Throws `TRANSFER_NO_TRANSPORT` when the transport is not available here, with the reason. */
export async function openParty(role: string, name: TransportName, poolBytes: number): Promise<Party> {
  const clock = new SystemClock();
  const transport = await open(name, clock);
  const reason = transport.unavailable();
  if (reason !== undefined) throw new ArmatureError('TRANSFER_NO_TRANSPORT', `transport ${name} is not available here: ${reason}`, { hint: `measure another one: ${transportNames.join(', ')}` });
  const agent = await createAgent({ name: `nixelbench-${role}-${process.pid}`, transports: [transport], clock, log });
  const memory = name === 'shm' ? createSharedMemory({ name: `nixelbench-${role}`, lengthBytes: poolBytes }) : undefined;
  const buffer = memory?.buffer ?? new ArrayBuffer(poolBytes);
  const segment = agent.register({ buffer, lengthBytes: poolBytes, access: 'peers', ...(memory === undefined ? {} : { location: memory.location() as never }) });
  segment.bytes.fill(role === 'target' ? 7 : 1); // every page is there before anything is measured
  return {
    agent,
    segment,
    memory,
    close: async () => {
      await agent.close();
      memory?.close();
    },
  };
}
