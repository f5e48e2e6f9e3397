import { ArmatureError } from '@armature/contracts';

const UNITS: Readonly<Record<string, number>> = { '': 1, b: 1, k: 1024, kib: 1024, m: 1 << 20, mib: 1 << 20, g: 1 << 30, gib: 1 << 30 };
const MAX_VALUES = 64;

function one(text: string, option: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([a-z]*)$/i.exec(text.trim());
  const unit = UNITS[match?.[2]?.toLowerCase() ?? '?'];
  const value = match === null || unit === undefined ? NaN : Number(match[1]) * unit;
  if (Number.isSafeInteger(value) && value > 0) return value;
  throw new ArmatureError('USAGE_SIZE_INVALID', `${option} ${text}: "${text}" is no size`, { hint: 'write 64KiB, a list 16KiB,64KiB, or a range 4KiB..1MiB (doubling)' });
}

/** `64KiB`, `16KiB,64KiB`, `4KiB..1MiB` (doubling). Plain numbers are counts or bytes. Throws `USAGE_SIZE_INVALID`. */
export function parseSizes(text: string, option: string): number[] {
  const values = text.split(',').flatMap((part) => {
    const [from = '', to] = part.split('..');
    const first = one(from, option);
    if (to === undefined) return [first];
    const last = one(to, option);
    const range: number[] = [];
    for (let value = first; value <= last && range.length <= MAX_VALUES; value *= 2) range.push(value);
    return range;
  });
  if (values.length === 0 || values.length > MAX_VALUES) throw new ArmatureError('USAGE_SIZE_INVALID', `${option} ${text} names ${values.length} sizes`, { hint: `at most ${MAX_VALUES}, from small to large` });
  return values;
}

export function sizeText(bytes: number): string {
  if (bytes >= 1 << 20) return `${+(bytes / (1 << 20)).toFixed(1)} MiB`;
  return bytes >= 1024 ? `${+(bytes / 1024).toFixed(1)} KiB` : `${bytes} B`;
}
