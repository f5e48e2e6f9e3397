import { ArmatureError, TransferStatus } from '@armature/contracts';
import type { DescriptorColumns, TransferPlan } from '@armature/contracts';
import { assertInside, copyDescriptors, joinRows, mismatch } from './descriptors.ts';
import { PreparedTransfer } from './handle.ts';
import { assertSameLayout, layoutDifferences } from './layout/compare.ts';
import { LayoutConversion } from './layout/conversion.ts';
import type { Path, Peer } from './peers.ts';
import { allocatePair, IndexedList, RowList, StridedList } from './prepared-list.ts';
import type { ListSource, PreparedList } from './prepared-list.ts';
import type { SegmentTable } from './segments.ts';

export interface PrepareOptions {
  readonly op: 'read' | 'write';
  /** A peer, or the agent's own name: from own memory to own memory or storage. */
  readonly peer: string;
  readonly local: DescriptorColumns;
  readonly remote: DescriptorColumns;
  /**
   * `same` (default): segments with layout facts must agree in all of them. `converted`: the lists are those of a `LayoutConversion`; ranks and
   * orders may differ.
   */
  readonly layout?: 'same' | 'converted';
}

export interface MakeOptions {
  readonly op: 'read' | 'write';
  readonly local: PreparedList;
  readonly localIndices: Int32Array;
  readonly remote: PreparedList;
  readonly remoteIndices: Int32Array;
}

export interface BlockSelection {
  readonly segment: number;
  readonly blocks: Int32Array;
}

export interface PrepareBlocksOptions {
  readonly op: 'read' | 'write';
  readonly peer: string;
  readonly local: BlockSelection;
  readonly remote: BlockSelection;
}

export type TransferEnded = (transfer: PreparedTransfer, status: TransferStatus) => void;

const MAX_CONVERSIONS = 256;

function invalidList(found: string, hint: string): ArmatureError {
  return new ArmatureError('TRANSFER_DESCRIPTOR_INVALID', found, { hint });
}

/** Turns lists into checked plans. All that a transfer can get wrong is found here or at `recheck`, so that posts are cheap. */
export class TransferPlanner {
  readonly #segments: SegmentTable;
  readonly #agentName: string;
  readonly #peerOf: (name: string) => Peer | undefined;
  readonly #ended: TransferEnded;
  /** By the two segments, for one life of the peer. */
  readonly #conversions = new Map<string, LayoutConversion>();

  constructor(agentName: string, segments: SegmentTable, peerOf: (name: string) => Peer | undefined, ended: TransferEnded) {
    this.#agentName = agentName;
    this.#segments = segments;
    this.#peerOf = peerOf;
    this.#ended = ended;
  }

  prepare({ op, peer, local, remote, layout = 'same' }: PrepareOptions): PreparedTransfer {
    const target = this.#peer(peer);
    const found = mismatch(local, remote);
    if (found !== undefined) throw invalidList(found, 'give both lists the same rows');
    assertInside(local, 'local', (id) => this.#segments.get(id)?.lengthBytes);
    assertInside(remote, 'remote', (id) => target.lengthOf(id));
    this.#assertLayouts(target, local, remote, layout === 'converted');
    return this.#plan(op, target, copyDescriptors(local), copyDescriptors(remote));
  }

  prepareBlocks({ op, peer, local, remote }: PrepareBlocksOptions): PreparedTransfer {
    const target = this.#peer(peer);
    const conversion = this.#conversion(target, local.segment, remote.segment);
    if (conversion.isScattered) {
      throw new ArmatureError('TRANSFER_LAYOUT_SCATTERED', `blocks of segments ${local.segment} and ${remote.segment} share runs of only ${conversion.pieceBytes} bytes`, {
        hint: 'move them whole into a segment of stagingLayout(), then convertBlocks in memory',
      });
    }
    const { here, there } = conversion.descriptors(local, remote);
    return this.#plan(op, target, here, there);
  }

  list(peer: string | undefined, source: ListSource): IndexedList {
    const target = peer === undefined ? undefined : this.#peer(peer);
    const epoch = target === undefined ? this.#segments.epoch : target.epoch;
    const lengthOf = (id: number): number | undefined => (target === undefined ? this.#segments.get(id)?.lengthBytes : target.lengthOf(id));
    const side = target === undefined ? 'local' : 'remote';
    if ('layout' in source) {
      assertStrided(source, side, lengthOf);
      return new StridedList(target, epoch, source.segment, source.layout, source.blocks);
    }
    const { descriptors, rowsPerIndex = 1 } = source;
    const found = mismatch(descriptors, descriptors);
    if (found !== undefined) throw invalidList(found, 'give columns of at least `count` rows');
    if (!(Number.isInteger(rowsPerIndex) && rowsPerIndex > 0 && descriptors.count % rowsPerIndex === 0)) {
      throw invalidList(`${descriptors.count} rows, ${rowsPerIndex} per index`, 'give a whole number of rows per index');
    }
    assertInside(descriptors, side, lengthOf);
    return new RowList(target, epoch, copyDescriptors(descriptors), rowsPerIndex);
  }

  /** Everything about the lists is known: what is left is to pick rows, compare lengths and join neighbours. */
  make({ op, local, localIndices, remote, remoteIndices }: MakeOptions): PreparedTransfer {
    if (!(local instanceof IndexedList) || !(remote instanceof IndexedList) || local.owner !== undefined || remote.owner === undefined) {
      throw invalidList('lists of the wrong side', 'pass a list without peer as local, one with a peer as remote, both of this agent');
    }
    if (local.rowsPerIndex !== remote.rowsPerIndex || localIndices.length !== remoteIndices.length) {
      throw invalidList(`${localIndices.length} indices of ${local.rowsPerIndex} rows here, ${remoteIndices.length} of ${remote.rowsPerIndex} there`, 'give both sides as many rows');
    }
    const rows = localIndices.length * local.rowsPerIndex;
    const pair = allocatePair(rows);
    local.fill(localIndices, pair.local, false);
    if (!remote.fill(remoteIndices, pair.remote, true)) throw invalidList('pieces of different length', 'give both lists the same piece lengths');
    const joined = joinRows(pair.local, pair.remote);
    const plan: TransferPlan = { op, peer: remote.owner.name, local: joined.local, remote: joined.remote, bytes: joined.bytes };
    if (local.partner !== remote || local.uniformSegment < 0 || remote.uniformSegment < 0) {
      this.#assertLayouts(remote.owner, joined.local, joined.remote, false);
      local.paths = this.#pathsFor(remote.owner, plan);
      local.partner = rows > 0 ? remote : undefined;
    }
    return new PreparedTransfer(plan, rows, { target: remote.owner, targetEpoch: remote.epoch, segmentEpoch: local.epoch, paths: local.paths }, this.#ended);
  }

  isCurrent(transfer: PreparedTransfer): boolean {
    return transfer.targetEpoch === transfer.target.epoch && transfer.segmentEpoch === this.#segments.epoch;
  }

  /** A peer or a segment has changed since the handle was checked: checks it against what is known now. */
  recheck(transfer: PreparedTransfer): TransferStatus {
    const { plan } = transfer;
    const target = this.#peerOf(plan.peer);
    if (target === undefined) return TransferStatus.NotFound;
    const status = worse(missing(plan.local, (id) => this.#segments.get(id)?.lengthBytes), missing(plan.remote, (id) => target.lengthOf(id)));
    if (status !== TransferStatus.Done) return status;
    if (target !== transfer.target && !sameLayouts(plan.remote, transfer.target, target)) return TransferStatus.InvalidDescriptor;
    transfer.target = target;
    transfer.targetEpoch = target.epoch;
    transfer.segmentEpoch = this.#segments.epoch;
    transfer.paths = this.#pathsFor(target, plan);
    return transfer.paths.length === 0 ? TransferStatus.NotSupported : TransferStatus.Done;
  }

  /** Own columns, already checked. */
  #plan(op: 'read' | 'write', target: Peer, local: DescriptorColumns, remote: DescriptorColumns): PreparedTransfer {
    const count = local.count;
    const joined = joinRows(local, remote);
    const plan: TransferPlan = { op, peer: target.name, local: joined.local, remote: joined.remote, bytes: joined.bytes };
    return new PreparedTransfer(plan, count, { target, targetEpoch: target.epoch, segmentEpoch: this.#segments.epoch, paths: this.#pathsFor(target, plan) }, this.#ended);
  }

  #pathsFor(target: Peer, plan: TransferPlan): readonly Path[] {
    const kindHere = (id: number) => this.#segments.get(id)?.kind;
    return target.paths.filter((path) => path.canMove(plan, kindHere));
  }

  #peer(name: string): Peer {
    const peer = this.#peerOf(name);
    if (peer === undefined) throw new ArmatureError('TRANSFER_PEER_UNKNOWN', `agent "${name}" is not a peer`, { hint: 'call addPeer with its metadata first' });
    return peer;
  }

  /** Each pair of segments once. */
  #assertLayouts(target: Peer, local: DescriptorColumns, remote: DescriptorColumns, converts: boolean): void {
    let [lastHere, lastThere] = [-1, -1];
    for (let i = 0; i < local.count; i++) {
      const here = local.segments[i]!;
      const there = remote.segments[i]!;
      if (here === lastHere && there === lastThere) continue;
      [lastHere, lastThere] = [here, there];
      const layout = this.#segments.layoutOf(here);
      if (layout === undefined) continue;
      assertSameLayout({ name: `agent "${this.#agentName}"`, segment: here, layout }, { name: `agent "${target.name}"`, segment: there, layout: target.layoutOf(there) }, converts);
    }
  }

  #conversion(target: Peer, here: number, there: number): LayoutConversion {
    const ours = this.#segments.layoutOf(here);
    const theirs = target.layoutOf(there);
    if (ours === undefined || theirs === undefined) {
      const [owner, id] = ours === undefined ? [this.#agentName, here] : [target.name, there];
      throw new ArmatureError('TRANSFER_LAYOUT_UNKNOWN', `segment ${id} of agent "${owner}" is not known to hold KV blocks`, { hint: 'register it with its layout and exchange metadata again' });
    }
    const key = `${here} ${there} ${target.incarnation} ${target.name}`;
    const known = this.#conversions.get(key);
    if (known !== undefined && known.here === ours && known.there === theirs) return known;
    assertSameLayout({ name: `agent "${this.#agentName}"`, segment: here, layout: ours }, { name: `agent "${target.name}"`, segment: there, layout: theirs }, true);
    const conversion = new LayoutConversion(ours, theirs);
    if (this.#conversions.size >= MAX_CONVERSIONS) this.#conversions.clear();
    this.#conversions.set(key, conversion);
    return conversion;
  }
}

function missing(columns: DescriptorColumns, lengthOf: (id: number) => number | undefined): TransferStatus {
  let last = -1;
  let length = 0;
  for (let i = 0; i < columns.count; i++) {
    const id = columns.segments[i]!;
    if (id !== last) {
      const found = lengthOf(id);
      if (found === undefined) return TransferStatus.NotFound;
      [last, length] = [id, found];
    }
    if (columns.offsets[i]! + columns.lengths[i]! > length) return TransferStatus.InvalidDescriptor;
  }
  return TransferStatus.Done;
}

/** Whether another life of a peer keeps in these segments what the one before kept there. */
function sameLayouts(columns: DescriptorColumns, before: Peer, now: Peer): boolean {
  let last = -1;
  for (let i = 0; i < columns.count; i++) {
    const id = columns.segments[i]!;
    if (id === last) continue;
    last = id;
    const [a, b] = [before.layoutOf(id), now.layoutOf(id)];
    if (a !== undefined && b !== undefined && layoutDifferences(a, b).length > 0) return false;
  }
  return true;
}

function worse(a: TransferStatus, b: TransferStatus): TransferStatus {
  return a === TransferStatus.Done ? b : a;
}

function assertStrided({ segment, layout, blocks }: Extract<ListSource, { layout: unknown }>, side: string, lengthOf: (id: number) => number | undefined): void {
  const { blockStrideBytes, pieces, pieceBytes, pieceStrideBytes } = layout;
  const whole = [blockStrideBytes, pieces, pieceBytes, pieceStrideBytes, blocks].every((value) => Number.isSafeInteger(value) && value >= 0);
  if (!whole || pieces < 1 || pieceBytes > 0x7fff_ffff) throw invalidList(`a strided list of ${blocks} blocks with ${pieces} pieces of ${pieceBytes} bytes`, 'give whole numbers, and at least one piece');
  const length = lengthOf(segment);
  const end = blocks === 0 ? 0 : (blocks - 1) * blockStrideBytes + (pieces - 1) * pieceStrideBytes + pieceBytes;
  if (length !== undefined && end <= length) return;
  throw invalidList(`${side} blocks end at byte ${end} of segment ${segment}, ${length === undefined ? 'which is not registered' : `of ${length} bytes`}`, 'register the memory, exchange metadata again, and keep blocks inside it');
}
