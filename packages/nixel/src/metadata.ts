import { ArmatureError } from '@armature/contracts';
import type { MemoryKind, TransportMetadata } from '@armature/contracts';
import { layoutProblem } from './layout/kv-layout.ts';
import type { KvLayout } from './layout/kv-layout.ts';

export interface SegmentMetadata {
  readonly id: number;
  readonly kind: MemoryKind;
  readonly lengthBytes: number;
  /** What the owner's transports say of it, by transport name. */
  readonly transports: Readonly<Record<string, TransportMetadata>>;
  /** What its bytes are, when the owner said so. */
  readonly layout: KvLayout | undefined;
}

/** What an agent tells its peers. */
export interface AgentMetadata {
  readonly name: string;
  readonly incarnation: string;
  /** Grows with every change of the owner's segments; older metadata that arrives late is ignored. */
  readonly revision: number;
  /** Names only some segments; the others stay as known. Whole metadata takes away what it does not name. */
  readonly isPartial: boolean;
  readonly segments: readonly SegmentMetadata[];
  /** Connection facts by transport name. */
  readonly transports: Readonly<Record<string, TransportMetadata>>;
}

const MAGIC = 'ANX';
export const METADATA_VERSION = 2;
export const MAX_METADATA_BYTES = 1 << 20;
const LIMIT_SEGMENTS = 4096;
const NAME = /^[^\u0000-\u001f]{1,256}$/u;
const KINDS: readonly string[] = ['dram', 'device', 'file', 'object'];

function invalid(found: string): ArmatureError {
  return new ArmatureError('TRANSFER_METADATA_INVALID', `agent metadata ${found}`, { hint: 'pass the bytes of Agent.metadata() unchanged' });
}

/** `ANX`, a version byte, then UTF-8 JSON. Throws `TRANSFER_METADATA_INVALID` when it is more than peers accept. */
export function encodeMetadata(metadata: AgentMetadata): Uint8Array {
  const json = new TextEncoder().encode(JSON.stringify(metadata));
  if (json.length + 4 > MAX_METADATA_BYTES || metadata.segments.length > LIMIT_SEGMENTS) {
    throw new ArmatureError('TRANSFER_METADATA_INVALID', `agent metadata would have ${json.length} bytes and ${metadata.segments.length} segments`, {
      hint: `register few large regions: peers accept ${LIMIT_SEGMENTS} segments in ${MAX_METADATA_BYTES} bytes`,
    });
  }
  const bytes = new Uint8Array(4 + json.length);
  for (let i = 0; i < 3; i++) bytes[i] = MAGIC.charCodeAt(i);
  bytes[3] = METADATA_VERSION;
  bytes.set(json, 4);
  return bytes;
}

/** Reads metadata from an untrusted peer. Throws `TRANSFER_METADATA_INVALID` or `TRANSFER_METADATA_VERSION`, never anything else. */
export function decodeMetadata(bytes: Uint8Array): AgentMetadata {
  if (bytes.length < 4 || bytes.length > MAX_METADATA_BYTES) throw invalid(`has ${bytes.length} bytes`);
  for (let i = 0; i < 3; i++) if (bytes[i] !== MAGIC.charCodeAt(i)) throw invalid('has no ANX mark');
  if (bytes[3] !== METADATA_VERSION) {
    throw new ArmatureError('TRANSFER_METADATA_VERSION', `agent metadata has version ${bytes[3]}, this agent reads version ${METADATA_VERSION}`, {
      hint: 'run the same version of @armature/nixel on both sides',
      details: { found: bytes[3], supported: METADATA_VERSION },
    });
  }
  let parsed: unknown;
  try {
    parsed = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes.subarray(4)));
  } catch {
    throw invalid('is not JSON');
  }
  return checked(parsed);
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function checked(value: unknown): AgentMetadata {
  if (!isRecord(value)) throw invalid('is not an object');
  const { name, incarnation, revision, isPartial, segments, transports } = value;
  if (typeof name !== 'string' || !NAME.test(name)) throw invalid('has no valid name');
  if (typeof incarnation !== 'string' || !NAME.test(incarnation)) throw invalid('has no valid incarnation');
  if (!Number.isSafeInteger(revision) || (revision as number) < 0) throw invalid('has no valid revision');
  if (typeof isPartial !== 'boolean') throw invalid('does not say whether it is partial');
  if (!Array.isArray(segments) || segments.length > LIMIT_SEGMENTS) throw invalid('has no valid segment list');
  if (!isRecord(transports)) throw invalid('has no valid transports');
  return { name, incarnation, revision: revision as number, isPartial, segments: segments.map(checkedSegment), transports: checkedTransports(transports) };
}

function checkedSegment(value: unknown): SegmentMetadata {
  if (!isRecord(value)) throw invalid('has a segment that is no object');
  const { id, kind, lengthBytes, transports, layout } = value;
  if (!Number.isInteger(id) || (id as number) < 0 || (id as number) > 0x7fff_ffff) throw invalid('has a segment without a valid id');
  if (typeof kind !== 'string' || !KINDS.includes(kind)) throw invalid('has a segment of unknown kind');
  if (!Number.isSafeInteger(lengthBytes) || (lengthBytes as number) < 0) throw invalid('has a segment without a valid length');
  if (!isRecord(transports)) throw invalid('has a segment without valid transports');
  const problem = layout === undefined ? undefined : layoutProblem(layout, lengthBytes as number);
  if (problem !== undefined) throw invalid(`has a segment whose layout ${problem}`);
  return { id: id as number, kind: kind as MemoryKind, lengthBytes: lengthBytes as number, transports: checkedTransports(transports), layout: layout as KvLayout | undefined };
}

function checkedTransports(value: Record<string, unknown>): Record<string, TransportMetadata> {
  const transports = Object.create(null) as Record<string, TransportMetadata>;
  for (const [name, facts] of Object.entries(value)) {
    if (!isRecord(facts)) throw invalid(`has no valid facts for transport "${name.slice(0, 64)}"`);
    const plain = Object.create(null) as Record<string, string | number | boolean>;
    for (const [key, fact] of Object.entries(facts)) {
      if (typeof fact !== 'string' && typeof fact !== 'number' && typeof fact !== 'boolean') throw invalid(`has a nested fact for transport "${name.slice(0, 64)}"`);
      plain[key] = fact;
    }
    transports[name] = plain;
  }
  return transports;
}
