import { cos64, exp64, ln64, sin64 } from './elementary.ts';

export type RopeScaling =
  | { readonly type: 'none' }
  | { readonly type: 'linear'; readonly factor: number }
  | {
      readonly type: 'llama3';
      readonly factor: number;
      readonly lowFrequencyFactor: number;
      readonly highFrequencyFactor: number;
      readonly originalMaxTokens: number;
    };

/** Angle per position of each pair of a head, rounded to f32 as Hugging Face's implementations do. */
export function inverseFrequencies(headDim: number, theta: number, scaling: RopeScaling): Float32Array {
  const lnTheta = ln64(theta);
  return Float32Array.from({ length: headDim / 2 }, (_, i) => scaled(Math.fround(exp64(-((2 * i) / headDim) * lnTheta)), scaling));
}

function scaled(frequency: number, scaling: RopeScaling): number {
  if (scaling.type === 'none') return frequency;
  if (scaling.type === 'linear') return frequency / scaling.factor;
  const wavelength = (2 * Math.PI) / frequency;
  if (wavelength < scaling.originalMaxTokens / scaling.highFrequencyFactor) return frequency;
  if (wavelength > scaling.originalMaxTokens / scaling.lowFrequencyFactor) return frequency / scaling.factor;
  const smooth =
    (scaling.originalMaxTokens / wavelength - scaling.lowFrequencyFactor) / (scaling.highFrequencyFactor - scaling.lowFrequencyFactor);
  return ((1 - smooth) * frequency) / scaling.factor + smooth * frequency;
}

/** Fills `table`: per position headDim / 2 cosines, then headDim / 2 sines. */
export function fillRopeTable(table: Float32Array, frequencies: Float32Array): void {
  const half = frequencies.length;
  for (let position = 0, at = 0; at < table.length; position++, at += 2 * half) {
    for (let i = 0; i < half; i++) {
      const angle = Math.fround(position * frequencies[i]!);
      table[at + i] = cos64(angle);
      table[at + half + i] = sin64(angle);
    }
  }
}
