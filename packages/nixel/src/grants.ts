import { TransferStatus } from '@armature/contracts';

/** Who may touch a segment without a grant: every peer, every peer for reading only, nobody. */
export type SegmentAccess = 'peers' | 'peers-read' | 'granted';

export interface Grant {
  readonly peer: string;
  readonly segment: number;
  readonly offset: number;
  readonly length: number;
  readonly op: 'read' | 'write' | 'both';
}

/** What peers may touch. One agent's table; asked once per descriptor by the owner's side of a transport. */
export class GrantTable {
  readonly #segments = new Map<number, { readonly lengthBytes: number; readonly access: SegmentAccess }>();
  readonly #grants = new Map<string, Grant[]>();

  addSegment(id: number, lengthBytes: number, access: SegmentAccess): void {
    this.#segments.set(id, { lengthBytes, access });
  }

  removeSegment(id: number): void {
    this.#segments.delete(id);
    for (const [peer, grants] of this.#grants) this.#keep(peer, grants.filter((grant) => grant.segment !== id));
  }

  removePeer(peer: string): void {
    this.#grants.delete(peer);
  }

  /** Returns the revoke function. */
  add(grant: Grant): () => void {
    const grants = this.#grants.get(grant.peer);
    if (grants === undefined) this.#grants.set(grant.peer, [grant]);
    else grants.push(grant);
    return () => this.#keep(grant.peer, (this.#grants.get(grant.peer) ?? []).filter((other) => other !== grant));
  }

  /** `Done` when allowed, else the status that the peer sees. Undefined: the agent itself, which may touch all of it. */
  check(peer: string | undefined, segment: number, offset: number, length: number, op: 'read' | 'write'): TransferStatus {
    const entry = this.#segments.get(segment);
    if (entry === undefined) return TransferStatus.NotFound;
    if (!(offset >= 0 && length >= 0 && offset + length <= entry.lengthBytes)) return TransferStatus.InvalidDescriptor;
    if (peer === undefined || entry.access === 'peers' || (entry.access === 'peers-read' && op === 'read')) return TransferStatus.Done;
    const grants = this.#grants.get(peer);
    if (grants !== undefined) {
      for (let i = 0; i < grants.length; i++) {
        const grant = grants[i]!;
        const covers = grant.segment === segment && offset >= grant.offset && offset + length <= grant.offset + grant.length;
        if (covers && (grant.op === 'both' || grant.op === op)) return TransferStatus.Done;
      }
    }
    return TransferStatus.NotAllowed;
  }

  #keep(peer: string, grants: Grant[]): void {
    if (grants.length === 0) this.#grants.delete(peer);
    else this.#grants.set(peer, grants);
  }
}
