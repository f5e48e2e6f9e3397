/**
 * CPU microseconds per call of each function, median over rounds. The functions take turns in every round, so that what they
 * are compared with ran in the same minutes. CPU time of the whole process: garbage collection and compilation count.
 */
export function measureAll(functions, { rounds = 7, roundMs = 60 } = {}) {
  const entries = Object.entries(functions).map(([name, call]) => ({ name, call, batch: calibrate(call, roundMs), perCallUs: [] }));
  for (let round = 0; round < rounds; round++) {
    for (const entry of entries) {
      const before = process.cpuUsage();
      for (let i = 0; i < entry.batch; i++) entry.call(i);
      const { user, system } = process.cpuUsage(before);
      entry.perCallUs.push((user + system) / entry.batch);
    }
  }
  return Object.fromEntries(entries.map(({ name, perCallUs }) => [name, median(perCallUs)]));
}

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted.length % 2 === 1 ? sorted[(sorted.length - 1) / 2] : (sorted[sorted.length / 2 - 1] + sorted[sorted.length / 2]) / 2;
}

/** Warms up and finds how many calls fill a round. */
function calibrate(call, roundMs) {
  let batch = 1;
  for (;;) {
    const start = performance.now();
    for (let i = 0; i < batch; i++) call(i);
    const took = performance.now() - start;
    if (took >= roundMs / 2) return Math.max(1, Math.round((batch * roundMs) / took));
    batch *= took < roundMs / 20 ? 8 : 2;
  }
}

/** Small seeded source: the same inputs in every run. */
export function seeded(seed) {
  let state = seed >>> 0;
  const u32 = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let x = Math.imul(state ^ (state >>> 15), state | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return (x ^ (x >>> 14)) >>> 0;
  };
  return { u32, next: () => u32() / 2 ** 32, below: (bound) => Math.floor((u32() / 2 ** 32) * bound), fork: () => seeded(u32()) };
}
