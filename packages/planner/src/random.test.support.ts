import type { Random } from '@armature/contracts';

/** mulberry32: enough for tests; plug-ins get theirs from the core. */
export function testRandom(seed: number): Random {
  let state = seed >>> 0;
  const u32 = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (t ^ (t >>> 14)) >>> 0;
  };
  const next = (): number => u32() / 2 ** 32;
  return { u32, next, below: (bound) => Math.floor(next() * bound), fork: (label) => testRandom([...label].reduce((hash, letter) => Math.imul(hash, 31) + letter.charCodeAt(0), seed * 31 + 7)) };
}
