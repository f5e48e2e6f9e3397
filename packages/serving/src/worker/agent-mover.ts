import { ArmatureError, TransferStatus } from '@armature/contracts';
import type { Clock, KvArena, Logger, TransferTransport } from '@armature/contracts';
import { blockDescriptors, createAgent } from '@armature/nixel';
import type { Agent } from '@armature/nixel';
import type { KvMover, Pull } from './kv-mover.ts';

/** Peers whose metadata is remembered; the oldest is forgotten (and read again when it comes back). */
const MAX_PEERS = 4096;
/** By convention the KV arena is the first segment that a worker's agent registers. */
const ARENA_SEGMENT = 1;

export interface AgentMoverOptions {
  readonly name: string;
  readonly incarnation: string;
  readonly arena: KvArena;
  readonly transports: readonly TransferTransport[];
  readonly clock: Clock;
  readonly log: Logger;
}

/** The KvMover over a nixel agent: the engine's arena is registered once, every pull is one prepared transfer. */
export async function createAgentMover(options: AgentMoverOptions): Promise<KvMover> {
  const { arena, name, incarnation, transports, clock, log } = options;
  const agent = await createAgent({ name, incarnation, transports, clock, log });
  const segment = arena.segments[0];
  if (segment === undefined) throw new ArmatureError('SERVING_ARENA_EMPTY', `engine of ${name} has an empty KV arena`);
  agent.register({ buffer: segment.buffer, byteOffset: segment.byteOffset, lengthBytes: segment.lengthBytes, access: 'peers-read' });
  return new AgentMover(agent, arena, log);
}

class AgentMover implements KvMover {
  readonly blockBytes: number;
  readonly #agent: Agent;
  readonly #arena: KvArena;
  readonly #log: Logger;
  readonly #peers = new Map<string, string>();

  constructor(agent: Agent, arena: KvArena, log: Logger) {
    this.#agent = agent;
    this.#arena = arena;
    this.#log = log;
    this.blockBytes = arena.pieces * arena.pieceBytes;
  }

  metadata(): Uint8Array {
    return this.#agent.metadata();
  }

  pull(peerMetadata: Uint8Array, remoteBlocks: Int32Array, localBlocks: Int32Array, deadlineMs: number, done: (status: TransferStatus) => void): Pull {
    try {
      const handle = this.#agent.prepare({
        op: 'read',
        peer: this.#peer(peerMetadata),
        local: blockDescriptors(ARENA_SEGMENT, this.#arena, localBlocks),
        remote: blockDescriptors(ARENA_SEGMENT, this.#arena, remoteBlocks),
      });
      this.#agent.post(handle, { deadlineMs }, (status) => {
        this.#agent.release(handle);
        done(status);
      });
      return { cancel: () => this.#agent.cancel(handle) };
    } catch (error) {
      const failure = ArmatureError.from(error, 'TRANSFER_FAILED');
      this.#log.warn('KV pull refused', { code: failure.code, message: failure.message });
      done(TransferStatus.InvalidDescriptor);
      return { cancel: () => undefined };
    }
  }

  close(): Promise<void> {
    return this.#agent.close();
  }

  /** The peer of this metadata. Metadata is a constant of a peer's life, so its bytes are the key. */
  #peer(metadata: Uint8Array): string {
    const key = Buffer.from(metadata.buffer, metadata.byteOffset, metadata.byteLength).toString('latin1');
    const known = this.#peers.get(key);
    if (known !== undefined && this.#agent.peers().includes(known)) return known;
    const name = this.#agent.addPeer(metadata);
    this.#peers.set(key, name);
    if (this.#peers.size > MAX_PEERS) {
      const oldest = this.#peers.entries().next().value;
      if (oldest !== undefined) {
        this.#peers.delete(oldest[0]);
        this.#agent.removePeer(oldest[1]);
      }
    }
    return name;
  }
}
