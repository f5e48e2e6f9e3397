import { ArmatureError } from '@armature/contracts';
import type { KvDimension, KvLayout } from '@armature/contracts';

export type { KvDimension, KvLayout } from '@armature/contracts';

export const KV_DIMENSIONS: readonly KvDimension[] = ['layer', 'kv', 'block', 'token', 'head', 'dim'];

/** Orders by the names engines give them. */
export const kvOrders: { readonly layerMajorNhd: readonly KvDimension[]; readonly layerMajorHnd: readonly KvDimension[]; readonly blockMajorNhd: readonly KvDimension[]; readonly blockMajorHnd: readonly KvDimension[] } = {
  layerMajorNhd: ['layer', 'kv', 'block', 'token', 'head', 'dim'],
  layerMajorHnd: ['layer', 'kv', 'block', 'head', 'token', 'dim'],
  blockMajorNhd: ['block', 'layer', 'kv', 'token', 'head', 'dim'],
  blockMajorHnd: ['block', 'layer', 'kv', 'head', 'token', 'dim'],
};

/** The KV heads that a rank holds. Beyond `kvHeads` ranks, `tpSize / kvHeads` neighbours hold the same head. */
export function headsOf(kvHeads: number, tpSize: number, tpRank: number): { readonly first: number; readonly count: number } {
  if (tpSize > kvHeads) return { first: Math.floor((tpRank * kvHeads) / tpSize), count: 1 };
  const count = kvHeads / tpSize;
  return { first: tpRank * count, count };
}

/** Elements of each dimension in this rank's segment. */
export function dimensionSizes(layout: KvLayout): Record<KvDimension, number> {
  const { count } = headsOf(layout.kvHeads, layout.tpSize, layout.tpRank);
  return { layer: layout.layers, kv: layout.planes, block: layout.blocks, token: layout.blockSize, head: count, dim: layout.headDim };
}

/** Bytes between neighbours in each dimension. */
export function dimensionStrides(layout: KvLayout): Record<KvDimension, number> {
  const sizes = dimensionSizes(layout);
  const strides = { layer: 0, kv: 0, block: 0, token: 0, head: 0, dim: 0 };
  let stride: number = layout.dtypeBytes;
  for (let i = layout.order.length - 1; i >= 0; i--) {
    const dimension = layout.order[i]!;
    strides[dimension] = stride;
    stride *= sizes[dimension];
  }
  return strides;
}

/** Bytes of the whole segment. */
export function layoutBytes(layout: KvLayout): number {
  return Object.values(dimensionSizes(layout)).reduce((product, size) => product * size, layout.dtypeBytes);
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 1;
}

const NAME = /^[^\u0000-\u001f]{1,256}$/u;

/** Why a value is no layout of a segment of `lengthBytes`, or undefined. Also the check of what peers send. */
export function layoutProblem(value: unknown, lengthBytes: number): string | undefined {
  if (typeof value !== 'object' || value === null) return 'is not an object';
  const layout = value as Record<string, unknown>;
  if (typeof layout['model'] !== 'string' || !NAME.test(layout['model'])) return 'has no model';
  if (typeof layout['dtype'] !== 'string' || !NAME.test(layout['dtype'])) return 'has no dtype';
  if (![1, 2, 4, 8].includes(layout['dtypeBytes'] as number)) return `has dtypeBytes ${String(layout['dtypeBytes'])}`;
  if (layout['planes'] !== 1 && layout['planes'] !== 2) return `has planes ${String(layout['planes'])}`;
  for (const field of ['blockSize', 'layers', 'kvHeads', 'headDim', 'tpSize', 'blocks']) if (!isCount(layout[field])) return `has ${field} ${String(layout[field])}`;
  return shapeProblem(value as KvLayout, lengthBytes);
}

function shapeProblem(layout: KvLayout, lengthBytes: number): string | undefined {
  const { kvHeads, tpSize, tpRank, order } = layout;
  if (!Number.isInteger(tpRank) || tpRank < 0 || tpRank >= tpSize) return `has tpRank ${String(tpRank)} of ${tpSize}`;
  if (tpSize > kvHeads ? tpSize % kvHeads !== 0 : kvHeads % tpSize !== 0) return `splits ${kvHeads} KV heads over ${tpSize} ranks`;
  if (!Array.isArray(order) || order.length !== KV_DIMENSIONS.length || !KV_DIMENSIONS.every((dimension) => order.includes(dimension))) return 'has no order of all six dimensions';
  const bytes = layoutBytes(layout);
  return bytes <= lengthBytes ? undefined : `needs ${bytes} bytes, its segment has ${lengthBytes}`;
}

/** Only the known fields, in one order. Throws `TRANSFER_LAYOUT_INVALID`. */
export function checkedLayout(value: unknown, lengthBytes: number): KvLayout {
  const problem = layoutProblem(value, lengthBytes);
  if (problem !== undefined) throw new ArmatureError('TRANSFER_LAYOUT_INVALID', `KV layout ${problem}`, { hint: 'describe the segment as it lies in memory: see KvLayout' });
  const { model, dtype, dtypeBytes, blockSize, layers, planes, kvHeads, headDim, tpSize, tpRank, order, blocks } = value as KvLayout;
  return { model, dtype, dtypeBytes, blockSize, layers, planes, kvHeads, headDim, tpSize, tpRank, order: [...order], blocks };
}

/** One line for people: `llama bf16 32 layers 8 heads x 128 block 16 tp 2/4 layer,kv,block,token,head,dim`. */
export function describeLayout(layout: KvLayout): string {
  const { model, dtype, layers, planes, kvHeads, headDim, blockSize, tpSize, tpRank, order } = layout;
  return `${model} ${dtype}, ${layers} layers, ${planes} planes, ${kvHeads} heads of ${headDim}, blocks of ${blockSize}, rank ${tpRank} of ${tpSize}, [${order.join('][')}]`;
}
