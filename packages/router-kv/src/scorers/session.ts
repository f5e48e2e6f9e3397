// @hot
import type { Candidates, RouterScorer, RoutingRequest } from '@armature/contracts';

/** Soft session affinity: the worker a session is bound to costs `sessionBonusBlocks` less. It loses to real load, and a degraded worker has no bonus. */
export class SessionScorer implements RouterScorer {
  readonly name = 'session';

  applies(request: RoutingRequest): boolean {
    return request.sessionSlot >= 0;
  }

  score(request: RoutingRequest, candidates: Candidates, costs: Float64Array): void {
    if (request.sessionSlot < 0) return;
    for (let i = 0; i < candidates.count; i++) costs[i] -= sessionBonus(request, candidates, i);
  }

  explain(request: RoutingRequest, candidates: Candidates, index: number): Record<string, number> {
    return { bonusBlocks: sessionBonus(request, candidates, index) };
  }
}

function sessionBonus(request: RoutingRequest, candidates: Candidates, i: number): number {
  return candidates.slots[i] === request.sessionSlot && candidates.degraded[i] === 0 ? request.sessionBonusBlocks : 0;
}
