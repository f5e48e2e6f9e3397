import type { SuiteMover } from '@armature/contracts/testing/kv-tier';
import { realClock } from '@armature/contracts/testing/real-clock';
import { createAgent } from '@armature/nixel';
import { BlockMover } from './block-mover.ts';
import type { BlockMoverOptions } from './block-mover.ts';

let agents = 0;

/** The real mover over an agent of its own, as a worker has it: for the contract suite of tiers. */
export async function createSuiteMover(options: Partial<BlockMoverOptions> = {}): Promise<SuiteMover & { readonly mover: BlockMover }> {
  const agent = options.agent ?? (await createAgent({ name: `suite-${++agents}`, clock: realClock }));
  const mover = new BlockMover({ clock: realClock, ...options, agent });
  return {
    mover,
    close: async () => {
      mover.close();
      await agent.close();
    },
  };
}
