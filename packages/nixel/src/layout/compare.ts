import { ArmatureError } from '@armature/contracts';
import { describeLayout } from './kv-layout.ts';
import type { KvLayout } from './kv-layout.ts';

export interface LayoutDifference {
  readonly field: string;
  readonly here: string;
  readonly there: string;
  /** Descriptors or `convertBlocks` bridge it. Others make blocks meaningless on the other side. */
  readonly isConvertible: boolean;
}

const FIXED = ['model', 'dtype', 'dtypeBytes', 'blockSize', 'layers', 'planes', 'kvHeads', 'headDim'] as const;

/** Fields that differ. `blocks` may: it is a capacity. Ranks that hold the same heads in the same order do not differ. */
export function layoutDifferences(here: KvLayout, there: KvLayout): LayoutDifference[] {
  const found: LayoutDifference[] = [];
  const compare = (field: string, a: unknown, b: unknown, isConvertible: boolean): void => {
    if (a !== b) found.push({ field, here: String(a), there: String(b), isConvertible });
  };
  for (const field of FIXED) compare(field, here[field], there[field], false);
  compare('tpSize', here.tpSize, there.tpSize, true);
  compare('tpRank', here.tpRank, there.tpRank, true);
  compare('order', here.order.join(','), there.order.join(','), true);
  return found;
}

export interface LayoutSide {
  /** `agent "NAME"`, or what else people call it. */
  readonly name: string;
  readonly segment: number;
  readonly layout: KvLayout | undefined;
}

/**
 * Throws `TRANSFER_LAYOUT_MISMATCH`, naming both sides and the fields that differ. Segments without facts are not compared.
 * `converts`: the descriptors convert between ranks and orders already, only differences that nothing bridges are errors.
 */
export function assertSameLayout(here: LayoutSide, there: LayoutSide, converts: boolean): void {
  if (here.layout === undefined || there.layout === undefined || here.layout === there.layout) return;
  const differences = layoutDifferences(here.layout, there.layout).filter(({ isConvertible }) => !(converts && isConvertible));
  if (differences.length === 0) return;
  const fields = differences.map((difference) => `${difference.field} ${difference.here} here, ${difference.there} there`).join('; ');
  const convertible = differences.every(({ isConvertible }) => isConvertible);
  throw new ArmatureError(
    'TRANSFER_LAYOUT_MISMATCH',
    `segment ${here.segment} of ${here.name} and segment ${there.segment} of ${there.name} hold KV blocks of different layout: ${fields} (${describeLayout(here.layout)}; ${describeLayout(there.layout)})`,
    {
      hint: convertible ? 'use prepareBlocks, or lists of a LayoutConversion: they convert between ranks and orders' : 'give both workers the same model, element type and block size',
      details: { here: here.name, there: there.name, fields: differences.map(({ field }) => field) },
    },
  );
}
