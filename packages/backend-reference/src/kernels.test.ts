import { beforeAll, describe, expect, it } from 'vitest';
import { createMemory, instantiateKernels } from './kernels.ts';
import type { Kernels } from './kernels.ts';
import { exp32 } from './math/elementary.ts';
import { fillRopeTable, inverseFrequencies } from './math/rope-table.ts';
import * as plain from './reference/ops.ts';
import { randomFloats, seededRandom } from './testing/write-checkpoint.ts';
import { packPanels } from './weights.ts';

// Every kernel against src/reference/ops.ts: raw bits, random shapes, odd sizes. Shapes are multiples of 4 where the engine refuses others.
const ROUNDS = 40;
let memory: ReturnType<typeof createMemory>;
let kernels: Kernels;
let next = 65536;

beforeAll(() => {
  memory = createMemory(64);
  kernels = instantiateKernels(memory);
});

/** Copies values into the kernels' memory. */
function place(values: Float32Array): Float32Array {
  const view = new Float32Array(memory.buffer, next, values.length);
  next += Math.ceil(values.byteLength / 16) * 16 + 16;
  view.set(values);
  return view;
}
const room = (count: number): Float32Array => place(new Float32Array(count).fill(NaN));
const bits = (values: Float32Array): number[] => [...new Uint32Array(Float32Array.from(values).buffer)];
const upTo = (random: () => number, limit: number): number => 1 + Math.floor(random() * limit);

function rounds(name: string, body: (random: () => number) => void): void {
  it(name, () => {
    for (let seed = 1; seed <= ROUNDS; seed++) {
      next = 65536;
      try {
        body(seededRandom(seed));
      } catch (error) {
        throw new Error(`seed ${seed}: ${(error as Error).message}`, { cause: error });
      }
    }
  });
}

describe('kernels equal the plain operations bit for bit', () => {
  rounds('matmul, all tile shapes, with and without residual', (random) => {
    const [rows, k, outs] = [upTo(random, 11), upTo(random, 70), 4 * upTo(random, 24)];
    const stride = k + Math.floor(random() * 5);
    const x = randomFloats(random, rows * stride);
    const w = randomFloats(random, outs * k);
    const before = randomFloats(random, rows * outs);
    const packed = place(new Float32Array(Math.ceil(outs / 8) * 8 * k));
    packPanels(w, k, packed, 0);
    const xs = place(x);
    const y = place(before);
    const sum = place(before);
    kernels.matmul(xs.byteOffset, 4 * stride, rows, packed.byteOffset, k, outs, y.byteOffset, 4 * outs, 0);
    kernels.matmul(xs.byteOffset, 4 * stride, rows, packed.byteOffset, k, outs, sum.byteOffset, 4 * outs, 1);
    for (let row = 0; row < rows; row++) {
      const expected = plain.matmul(x.subarray(row * stride, row * stride + k), w, outs);
      expect(bits(y.subarray(row * outs, (row + 1) * outs))).toEqual(bits(expected));
      const residual = plain.add(before.subarray(row * outs, (row + 1) * outs), expected);
      expect(bits(sum.subarray(row * outs, (row + 1) * outs))).toEqual(bits(residual));
    }
  });

  it('sabotage: another order of accumulation has other bits', () => {
    const random = seededRandom(9);
    const [k, outs] = [64, 32];
    const x = randomFloats(random, k);
    const w = randomFloats(random, outs * k);
    const backwards = plain.matmul(x.slice().reverse(), w.map((_, i) => w[Math.floor(i / k) * k + (k - 1 - (i % k))]!), outs);
    expect(bits(backwards)).not.toEqual(bits(plain.matmul(x, w, outs)));
  });

  rounds('rmsnorm', (random) => {
    const [rows, n] = [upTo(random, 5), 4 * upTo(random, 40)];
    const x = randomFloats(random, rows * n, 3);
    const weight = randomFloats(random, n);
    const out = room(rows * n);
    kernels.rmsnorm(place(x).byteOffset, 4 * n, rows, place(weight).byteOffset, n, 1e-5, out.byteOffset, 4 * n);
    for (let row = 0; row < rows; row++) {
      const expected = plain.rmsnorm(x.subarray(row * n, (row + 1) * n), weight, 1e-5);
      expect(bits(out.subarray(row * n, (row + 1) * n))).toEqual(bits(expected));
    }
  });

  rounds('silu times up, bias', (random) => {
    const [rows, n] = [upTo(random, 4), 4 * upTo(random, 30)];
    const gateUp = randomFloats(random, rows * 2 * n, random() < 0.3 ? 200 : 8);
    const bias = randomFloats(random, n);
    const view = place(gateUp);
    kernels.siluMultiply(view.byteOffset, 8 * n, rows, n);
    const after = Float32Array.from(view);
    kernels.addBias(view.byteOffset, 8 * n, rows, place(bias).byteOffset, n);
    for (let row = 0; row < rows; row++) {
      const at = 2 * n * row;
      const expected = plain.siluMultiply(gateUp.subarray(at, at + n), gateUp.subarray(at + n, at + 2 * n));
      expect(bits(after.subarray(at, at + n))).toEqual(bits(expected));
      expect(bits(view.subarray(at, at + n))).toEqual(bits(plain.add(expected, bias)));
    }
  });

  rounds('argmax, sums and values of e^x over a vocabulary', (random) => {
    const n = upTo(random, 90);
    const values = randomFloats(random, n, 30).map((value) => (random() < 0.3 ? Math.round(value / 20) : value));
    const view = place(values);
    const highest = values.reduce((a, b) => (b > a ? b : a), -Infinity);
    expect(kernels.argmax(view.byteOffset, n)).toBe(plain.argmax(values));
    expect(kernels.sumExponentials(view.byteOffset, n, highest)).toBe(plain.sumExponentials(values, highest));
    const out = room(n + 4);
    kernels.exponentials(view.byteOffset, n, 0, out.byteOffset);
    expect(bits(out.subarray(0, n))).toEqual(bits(values.map(exp32)));
  });

  rounds('rotation, KV store and paged attention', (random) => {
    const group = upTo(random, 3);
    const [kvHeads, headDim, blockSize, context] = [upTo(random, 3), 8 * upTo(random, 9), 4 * upTo(random, 8), Math.floor(random() * 70)];
    const heads = group * kvHeads;
    const rows = context + upTo(random, 9);
    const width = (heads + 2 * kvHeads) * headDim;
    const blockCount = Math.ceil(rows / blockSize);
    const blockWords = 2 * kvHeads * headDim * blockSize;
    const table = place(new Float32Array(rows * headDim));
    fillRopeTable(table, inverseFrequencies(headDim, 10000, { type: 'none' }));
    const qkv = randomFloats(random, rows * width);
    const view = place(qkv);
    const numbers = Uint32Array.from({ length: blockCount }, (_, i) => (i * 5 + 3) % (blockCount * 2 + 5));
    const unique = new Set(numbers).size === numbers.length ? numbers : Uint32Array.from(numbers, (_, i) => i);
    const arena = room((2 * blockCount + 5) * blockWords);
    const scale = Math.fround(1 / Math.sqrt(headDim));
    kernels.configure(heads, kvHeads, headDim, blockSize, arena.byteOffset, 4 * blockWords, scale);
    const words = (values: Uint32Array): number => {
      const target = room(values.length);
      new Uint32Array(memory.buffer, target.byteOffset, values.length).set(values);
      return target.byteOffset;
    };
    const positions = words(Uint32Array.from({ length: rows }, (_, i) => i));
    const rowBlocks = words(Uint32Array.from({ length: rows }, (_, i) => arena.byteOffset + unique[Math.floor(i / blockSize)]! * 4 * blockWords));
    const q = room(rows * heads * headDim);
    const qBytes = 4 * heads * headDim;
    kernels.ropeStore(view.byteOffset, 4 * width, rows, positions, rowBlocks, 0, q.byteOffset, qBytes, table.byteOffset);
    const scores = room(rows + blockSize + 4);
    kernels.attention(q.byteOffset + context * qBytes, qBytes, rows - context, context, words(unique), 0, scores.byteOffset);

    const part = (row: number, at: number): Float32Array => qkv.subarray(row * width + at * headDim, row * width + (at + 1) * headDim);
    const turn = (row: number, at: number): Float32Array =>
      plain.rope(part(row, at), table.subarray(row * headDim, row * headDim + headDim / 2), table.subarray(row * headDim + headDim / 2, (row + 1) * headDim));
    for (let row = context; row < rows; row++) {
      for (let head = 0; head < heads; head++) {
        const kv = Math.floor(head / group);
        const past = Array.from({ length: row + 1 }, (_, t) => t);
        const expected = plain.attend(turn(row, head), past.map((t) => turn(t, heads + kv)), past.map((t) => part(t, heads + kvHeads + kv)), scale);
        const at = (row * heads + head) * headDim;
        expect(bits(q.subarray(at, at + headDim))).toEqual(bits(expected));
      }
    }
  });
});
