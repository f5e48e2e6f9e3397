import { ManualClock } from '@armature/contracts/testing/manual-clock';
import type { TransferPeer, TransportEndpoint, TransportHost } from '@armature/contracts';
import { expect, test } from 'vitest';
import { MemoryTransport } from './memory-transport.ts';

function source(seed: number): (bound: number) => number {
  let x = seed >>> 0;
  return (bound) => ((x = (Math.imul(x, 1664525) + 1013904223) >>> 0) >>> 8) % bound;
}

interface Agent {
  readonly name: string;
  readonly endpoint: TransportEndpoint;
  /** Peers by the name they are known under here, in a plain list. */
  peers: { name: string; of: Agent }[];
}

/** Endpoints meet, part, meet others under the same name, and close: each close is told to whom it concerns, in the order of their opening. */
async function history(seed: number, told: (line: string, log: string[]) => void): Promise<number> {
  const below = source(seed);
  const transport = new MemoryTransport({ clock: new ManualClock() });
  const log: string[] = [];
  let open: Agent[] = [];
  let heard = 0;
  for (let step = 0; step < 600; step++) {
    const dice = below(10);
    const one = open[below(Math.max(1, open.length))];
    if (dice < 3 || one === undefined) {
      const name = `a${step}`;
      const host = { agentName: name, disconnected: (peer: string) => told(`${name} lost ${peer}`, log) } as unknown as TransportHost;
      open.push({ name, endpoint: await transport.open(host), peers: [] });
    } else if (dice < 8) {
      const of = open[below(open.length)]!;
      const name = `p${below(6)}`;
      one.endpoint.connect({ name, metadata: of.endpoint.metadata() } as unknown as TransferPeer);
      one.peers = [...one.peers.filter((peer) => peer.name !== name), { name, of }];
    } else if (dice === 8) {
      const name = `p${below(6)}`;
      one.endpoint.disconnect(name);
      one.peers = one.peers.filter((peer) => peer.name !== name);
    } else {
      open = open.filter((agent) => agent !== one);
      const expected = open.flatMap(({ name, peers }) => peers.filter(({ of }) => of === one).map((peer) => `${name} lost ${peer.name}`));
      log.length = 0;
      await one.endpoint.close();
      expect(log, `seed ${seed}, step ${step}`).toEqual(expected);
      heard += expected.length;
    }
  }
  return heard;
}

test.each([1, 2, 3, 4])('who closes is missed by exactly those who were connected to it, in order (seed %i)', async (seed) => {
  expect(await history(seed, (line, log) => log.push(line))).toBeGreaterThan(50);
});

test('sabotage: somebody who is not told is seen', async () => {
  let count = 0;
  await expect(history(1, (line, log) => (++count === 20 ? undefined : void log.push(line)))).rejects.toThrow(/seed 1/);
});
