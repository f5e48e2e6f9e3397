import { ArmatureError } from '@armature/contracts';
import type { KvBlockFormat } from '@armature/contracts';
import { invalid } from './frames.ts';

/** Of frames and their meaning; both sides name theirs, and must be the same. */
export const CONNECTOR_VERSION = 1;

/** What vLLM says of its blocks. */
export interface ConnectorFormat {
  readonly model: string;
  readonly dtype: string;
  /** Tokens. */
  readonly blockSize: number;
  readonly layers: number;
  /** Runs of one block, and bytes of each. */
  readonly pieces: number;
  readonly pieceBytes: number;
  /** Order and extent of what lies in a piece, in vLLM's own words: equal words, equal bytes. */
  readonly layout: string;
}

const NUMBERS = ['blockSize', 'layers', 'pieces', 'pieceBytes'] as const;
const TEXTS = ['model', 'dtype', 'layout'] as const;

/** Throws `VLLM_CONNECTOR_FRAME_INVALID`. */
export function parseFormat(value: unknown): ConnectorFormat {
  const fields = (typeof value === 'object' && value !== null ? value : {}) as Readonly<Record<string, unknown>>;
  for (const name of TEXTS) if (typeof fields[name] !== 'string') throw invalid(`a hello without ${name}`);
  for (const name of NUMBERS) if (!Number.isSafeInteger(fields[name]) || (fields[name] as number) < 1) throw invalid(`a hello with ${name} ${String(fields[name])}`);
  const { model, dtype, blockSize, layers, pieces, pieceBytes, layout } = fields as unknown as ConnectorFormat;
  return { model, dtype, blockSize, layers, pieces, pieceBytes, layout };
}

/** What vLLM's scheduler knows of them. Throws `VLLM_CONNECTOR_FRAME_INVALID`. */
export function parseBlockSize(value: unknown): Pick<ConnectorFormat, 'blockSize'> {
  const { blockSize } = (typeof value === 'object' && value !== null ? value : {}) as Partial<ConnectorFormat>;
  if (blockSize === undefined || !Number.isSafeInteger(blockSize)) throw invalid(`a hello with blockSize ${String(blockSize)}`);
  return { blockSize };
}

/** Both sides' words for what differs; empty: nothing does. */
export function differences(ours: Partial<ConnectorFormat>, theirs: Partial<ConnectorFormat>): string[] {
  const found: string[] = [];
  for (const name of [...TEXTS, ...NUMBERS]) {
    const wanted = ours[name];
    if (wanted !== undefined && theirs[name] !== undefined && wanted !== theirs[name]) found.push(`${name} is ${JSON.stringify(wanted)} here, ${JSON.stringify(theirs[name])} in vLLM`);
  }
  return found;
}

export function mismatch(found: readonly string[]): ArmatureError {
  return new ArmatureError('VLLM_CONNECTOR_MISMATCH', found.join('; '), { hint: "start vLLM with the model, --dtype and --block-size of our configuration, and one release of armature-vllm and this backend" });
}

export function blockFormat({ model, dtype, blockSize, layers, pieces, pieceBytes, layout }: ConnectorFormat): KvBlockFormat {
  return { layoutFingerprint: `vllm:${model}:${dtype}:${blockSize}:${layers}:${pieces}x${pieceBytes}:${layout}`, pieces, pieceBytes };
}
