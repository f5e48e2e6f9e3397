// `node packages/kvbm/dist/mover/bench.test.support.js` after `npx tsc -b packages/kvbm`: what the mover costs beside bare memcpy and beside the agent's
// memory transport, interleaved in one run, best of the rounds. Not measured: other load on the event loop, cold pages, more than one memory node.
import { realClock } from '@armature/contracts/testing/real-clock';
import { createAgent } from '@armature/nixel';
import { BlockMover } from './block-mover.ts';

const TOTAL = 64 << 20;
const ROUNDS = 15;
/** Pieces of a block as an engine's arena has them: piece after piece, of all blocks. */
const SHAPES = [
  [1, 65_536],
  [1, 262_144],
  [1, 1 << 20],
  [8, 16_384],
  [16, 4096],
  [64, 1024],
] as const;

const agent = await createAgent({ name: 'bench', clock: realClock });
const mover = new BlockMover({ agent, clock: realClock });
for (const [pieces, pieceBytes] of SHAPES) {
  const blockBytes = pieces * pieceBytes;
  const blocks = TOTAL / blockBytes;
  const arenaBytes = new Uint8Array(new SharedArrayBuffer(TOTAL)).fill(1);
  const hostBytes = new Uint8Array(new SharedArrayBuffer(TOTAL)).fill(2);
  const arena = mover.registerMemory({ bytes: arenaBytes }, { blocks, blockStrideBytes: pieceBytes, pieces, pieceBytes, pieceStrideBytes: blocks * pieceBytes });
  const host = mover.registerMemory({ bytes: hostBytes }, { blocks, blockStrideBytes: blockBytes, pieces, pieceBytes, pieceStrideBytes: pieceBytes });
  const order = Int32Array.from({ length: blocks }, (_, i) => i);
  const shuffled = Int32Array.from(order, (i) => (i * 7919 + 3) % blocks);
  const lists = [agent.prepareList({ segment: host.segment, layout: host, blocks }), agent.prepareList({ segment: arena.segment, layout: arena, blocks, peer: agent.name })] as const;
  const best = { memcpy: 0, pieces: 0, mover: 0, agent: 0 };
  const time = async (name: keyof typeof best, run: () => void | Promise<void>): Promise<void> => {
    const startMs = realClock.nowMs();
    await run();
    best[name] = Math.max(best[name], TOTAL / (realClock.nowMs() - startMs) / 1e6);
  };
  for (let round = 0; round < ROUNDS; round++) {
    await time('memcpy', () => {
      for (let i = 0; i < blocks; i++) hostBytes.set(arenaBytes.subarray(shuffled[i] * blockBytes, (shuffled[i] + 1) * blockBytes), i * blockBytes);
    });
    // The same pieces as the mover's: what is left to gain.
    await time('pieces', () => {
      for (let i = 0; i < blocks; i++) {
        for (let p = 0; p < pieces; p++) {
          const at = shuffled[i] * pieceBytes + p * blocks * pieceBytes;
          hostBytes.set(arenaBytes.subarray(at, at + pieceBytes), i * blockBytes + p * pieceBytes);
        }
      }
    });
    await time('mover', () => new Promise((resolve) => void mover.copy(arena, shuffled, host, order, 60_000, () => resolve())));
    await time('agent', () => byAgent(lists, order, shuffled, Math.max(1, (1 << 20) / blockBytes)));
  }
  const shown = Object.entries(best).map(([name, gigabytes]) => `${name} ${gigabytes.toFixed(1)}`);
  console.log(`${pieces} × ${pieceBytes} B: ${shown.join('  ')} GB/s   mover/memcpy ${(best.mover / best.memcpy).toFixed(2)}  mover/pieces ${(best.mover / best.pieces).toFixed(2)}`);
  mover.deregister(arena);
  mover.deregister(host);
}
mover.close();
await agent.close();

/** The same copy as transfers of about 1 MiB, one a turn. */
async function byAgent([local, remote]: readonly [ReturnType<typeof agent.prepareList>, ReturnType<typeof agent.prepareList>], to: Int32Array, from: Int32Array, batch: number): Promise<void> {
  for (let at = 0; at < to.length; at += batch) {
    const handle = agent.make({ op: 'read', local, localIndices: to.subarray(at, at + batch), remote, remoteIndices: from.subarray(at, at + batch) });
    await agent.run(handle);
    agent.release(handle);
    await new Promise<void>((resolve) => realClock.defer(resolve));
  }
}
