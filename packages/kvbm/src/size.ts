import { ArmatureError } from '@armature/contracts';

const UNITS: Readonly<Record<string, number>> = { B: 1, KB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12, KIB: 2 ** 10, MIB: 2 ** 20, GIB: 2 ** 30, TIB: 2 ** 40 };
const SIZE = /^(\d+(?:\.\d+)?) ?([kmgt]?i?b)$/i;

/** JSON Schema of a size, without description and default: bytes, or a number with its unit. */
export const sizeSchema = { type: ['integer', 'string'], minimum: 1, pattern: '^\\d+(\\.\\d+)? ?([kKmMgGtT][iI]?)?[bB]$' } as const;

/**
 * Bytes of a size as configs write it: a number of bytes, or a string with its unit: `512MiB`, `1.5 TiB` (powers of 1,024), `100GB` (powers of 1,000),
 * `4096B`. Rounded down to whole bytes. Undefined: not such a size, nothing, or more than 2^53 bytes.
 */
export function parseSize(size: number | string): number | undefined {
  const bytes = typeof size === 'number' ? size : sizeOf(size);
  return Number.isSafeInteger(bytes) && bytes >= 1 ? bytes : undefined;
}

/** Throws `KVBM_CAPACITY_INVALID`; `what` names the setting. */
export function sizeBytes(size: number | string, what: string): number {
  const bytes = parseSize(size);
  if (bytes !== undefined) return bytes;
  throw new ArmatureError('KVBM_CAPACITY_INVALID', `${what} is ${JSON.stringify(size)}`, { hint: 'give a number of bytes, or a string with a unit: "512MiB", "1.5TiB", "100GB"' });
}

/** For people: the largest binary unit that gives at least 1. */
export function formatSize(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) {
    bytes /= 1024;
    unit++;
  }
  return `${Number(bytes.toFixed(1))} ${units[unit]}`;
}

function sizeOf(text: string): number {
  const [, digits, unit] = SIZE.exec(text) ?? [];
  return digits === undefined || unit === undefined ? Number.NaN : Math.floor(Number(digits) * UNITS[unit.toUpperCase()]);
}
