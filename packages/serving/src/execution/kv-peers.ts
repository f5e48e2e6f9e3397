import type { PlainData } from '@armature/contracts';
import type { KvPeer } from '@armature/kvbm';
import type { Route } from '../routing/model-router.ts';
import type { WorkerTable } from '../routing/worker-table.ts';

const MAX_PEERS = 3;
const NO_PEERS: Readonly<Record<string, PlainData>> = {};

/**
 * The workers that hold more of the prompt than the one that will compute it and may lend it, as part of the opening message: candidates of its own
 * decision, and of the decode worker's, where answers of earlier turns lie. What they hold is what the router's index says, in whatever tier: a block
 * on a peer's device is as a rule in its host tier as well, and the lender says what it really has.
 */
export function peersOf(route: Route, table: WorkerTable, decode?: Route): Readonly<Record<string, PlainData>> {
  const { worker, overlapBlocks } = route;
  if (worker.kvTiers === undefined) return NO_PEERS;
  const own = route.decision.holders(overlapBlocks);
  const others = decode?.decision.holders(overlapBlocks) ?? own;
  if (own.length === 0 && others.length === 0) return NO_PEERS;
  const holders = (others === own ? [...own] : [...own, ...others]).sort((a, b) => b.blocks - a.blocks);
  const peers: KvPeer[] = [];
  for (const { slot, blocks } of holders) {
    const peer = table.record(slot);
    if (peer?.kvTiers === undefined || peer.layoutFingerprint !== worker.layoutFingerprint || peer.agentMetadata.length === 0) continue;
    const { instanceId, address, agentMetadata, layoutFingerprint } = peer;
    if (peers.push({ instanceId, address, agentMetadata, layoutFingerprint, blocks }) === MAX_PEERS) break;
  }
  return peers.length === 0 ? NO_PEERS : { peers: peers as unknown as PlainData };
}
