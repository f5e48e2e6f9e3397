import { seeded } from './lib/measure.mjs';

export const description = 'verification of KV blocks: checksums in place and staged, beside memcpy and the hash of @armature/tokens in the same run';
export const packages = ['tokens', 'kvbm'];

/** More than the caches hold: blocks come from main memory, as they do behind a transfer. */
const ARENA_BYTES = 256 << 20;
const ROUNDS = 9;
const LAYERS_PLANES = 32;

export async function run() {
  const { createVerifier } = await import('@armature/kvbm');
  const { xxh3 } = await import('@armature/tokens');
  const wasm = new WebAssembly.Memory({ initial: ARENA_BYTES / 65_536, maximum: ARENA_BYTES / 65_536, shared: true });
  const arena = new Uint8Array(wasm.buffer);
  const host = new Uint8Array(ARENA_BYTES);
  for (let i = 0; i < ARENA_BYTES; i += 4093) arena[i] = host[i] = i;
  const rows = [];
  for (const blockBytes of [65_536, 262_144, 1 << 20]) {
    const count = Math.min(1024, ARENA_BYTES / blockBytes);
    const order = seeded(7);
    const blocks = Int32Array.from({ length: count }, () => order.below(ARENA_BYTES / blockBytes));
    const hashes = new Int32Array(count * 2);
    const out = new Int32Array(count * 2);
    const target = new Uint8Array(blockBytes);
    const pieceBytes = blockBytes / LAYERS_PLANES;
    const memory = (bytes, rest) => ({ segment: 0, blocks: ARENA_BYTES / blockBytes, blockStrideBytes: blockBytes, pieces: 1, pieceBytes: blockBytes, pieceStrideBytes: blockBytes, bytes, ...rest });
    const inPieces = { pieces: LAYERS_PLANES, pieceBytes, blockStrideBytes: pieceBytes, pieceStrideBytes: ARENA_BYTES / LAYERS_PLANES };
    const whole = createVerifier({ layoutFingerprint: 'bench', pieceBytes: blockBytes });
    const pieces = createVerifier({ layoutFingerprint: 'bench', pieceBytes });
    const [inArena, scattered, inHost] = [memory(arena, { wasm }), memory(arena, { wasm, ...inPieces }), memory(host)];
    const rates = measureTurns(count * blockBytes, {
      'memcpy': () => {
        for (const block of blocks) target.set(host.subarray(block * blockBytes, (block + 1) * blockBytes));
      },
      [`memcpy, ${LAYERS_PLANES} scattered pieces`]: () => {
        for (const block of blocks) {
          for (let piece = 0, at = block * pieceBytes; piece < LAYERS_PLANES; piece++, at += ARENA_BYTES / LAYERS_PLANES) target.set(host.subarray(at, at + pieceBytes), piece * pieceBytes);
        }
      },
      'xxh3 of @armature/tokens': () => {
        for (const block of blocks) xxh3(host.subarray(block * blockBytes, (block + 1) * blockBytes), 1, 2);
      },
      'in place': () => whole.checksums(inArena, blocks, count, hashes, out),
      [`in place, ${LAYERS_PLANES} scattered pieces`]: () => pieces.checksums(scattered, blocks, count, hashes, out),
      'staged': () => whole.checksums(inHost, blocks, count, hashes, out),
      [`staged, ${LAYERS_PLANES} runs`]: () => pieces.checksums(inHost, blocks, count, hashes, out),
    });
    for (const [name, value] of Object.entries(rates)) rows.push({ name: `${name}, blocks of ${blockBytes / 1024} KiB`, value, unit: 'GB/s' });
    if (whole.inPlaceBlocks === 0 || whole.stagedBlocks === 0 || pieces.inPlaceBlocks === 0) throw new Error('a path that was to be measured did not run');
  }
  return rows;
}

/** GB/s of each, the median of rounds taken in turns. */
function measureTurns(bytes, cases) {
  const times = Object.fromEntries(Object.keys(cases).map((name) => [name, []]));
  for (let round = 0; round <= ROUNDS; round++) {
    for (const [name, body] of Object.entries(cases)) {
      const start = process.cpuUsage();
      body();
      const { user, system } = process.cpuUsage(start);
      if (round > 0) times[name].push(user + system);
    }
  }
  return Object.fromEntries(Object.entries(times).map(([name, values]) => [name, bytes / 1000 / values.sort((a, b) => a - b)[values.length >> 1]]));
}
