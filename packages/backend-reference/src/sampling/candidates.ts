/**
 * The tokens a draw may still choose, best first (equal values: lowest id first). Selection packs value and id into one double, so that
 * the numeric sort of a typed array orders both.
 */
export class Candidates {
  readonly ids: Int32Array;
  readonly #keys: Float64Array;
  count: number;

  constructor(vocabSize: number) {
    this.ids = new Int32Array(vocabSize);
    this.#keys = new Float64Array(vocabSize);
    this.count = 0;
  }

  /** Collects the ids whose value is at least `lowest`, sorted. */
  collect(values: Float32Array, lowest: number): void {
    const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
    let count = 0;
    for (let id = 0; id < values.length; id++) {
      if (!(values[id]! >= lowest)) continue;
      // Ascending keys are descending values: negative floats order by their bits already, positive ones reversed.
      const word = bits[id]!;
      const order = word >= 0x80000000 ? word : 0x7fffffff - word;
      this.#keys[count++] = order * ID_RANGE + id;
    }
    this.#keys.subarray(0, count).sort();
    for (let i = 0; i < count; i++) this.ids[i] = this.#keys[i]! % ID_RANGE;
    this.count = count;
  }

  /** The `count` highest values, sorted; fewer when the vocabulary is smaller or values are excluded (-Infinity). */
  collectTop(values: Float32Array, count: number): void {
    this.collect(values, kthHighest(values, count));
    // Equal values at the end: the lowest ids stay.
    if (this.count > count) this.count = count;
  }
}

/** Vocabularies are smaller than this; 32 bits of value and 21 of id fill a double's 53. */
const ID_RANGE = 2 ** 21;
let heap = new Float32Array(64);

/** The k-th highest value (the lowest finite one when there are fewer), by a heap of the best k. */
function kthHighest(values: Float32Array, k: number): number {
  if (k >= values.length) return -Number.MAX_VALUE;
  if (heap.length < k) heap = new Float32Array(k);
  heap.fill(-Infinity, 0, k);
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!;
    if (value > heap[0]!) replaceLowest(value, k);
  }
  return heap[0] === -Infinity ? -Number.MAX_VALUE : heap[0]!;
}

function replaceLowest(value: number, size: number): void {
  let at = 0;
  for (;;) {
    let child = 2 * at + 1;
    if (child >= size) break;
    if (child + 1 < size && heap[child + 1]! < heap[child]!) child++;
    if (heap[child]! >= value) break;
    heap[at] = heap[child]!;
    at = child;
  }
  heap[at] = value;
}
