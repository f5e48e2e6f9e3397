// @hot
/** Columns from this length on live in shared memory. */
const SHARED_FROM = 1 << 14;

/**
 * A zeroed column. Large ones are shared memory though no other thread sees them: V8 charges ordinary buffers to the heap, so
 * that reserving the arena starts a full collection inside a store (8-38 ms against 1 ms) and growing costs a third more.
 */
export function column(length: number): Int32Array {
  return length < SHARED_FROM ? new Int32Array(length) : new Int32Array(new SharedArrayBuffer(length * Int32Array.BYTES_PER_ELEMENT));
}

/** A copy with room for `length` words. */
export function enlarged(from: Int32Array, length: number): Int32Array {
  const grown = column(length);
  grown.set(from);
  return grown;
}
