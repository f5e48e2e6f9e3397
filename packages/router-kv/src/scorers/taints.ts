// @hot
import type { Candidates, RouterScorer, RoutingRequest } from '@armature/contracts';

/**
 * Multiplies a worker's cost so far by exp(-tanh(sum of the weights of the preferred taints it carries)): between 0.37 (wanted) and 2.72
 * (unwanted), as Dynamo 1.6.1; of a negative cost (a session bonus) its distance from the lowest is scaled. Place it after the scorers whose cost it shall scale.
 */
export class PreferredTaintsScorer implements RouterScorer {
  readonly name = 'preferred-taints';

  applies(request: RoutingRequest): boolean {
    return request.preferredTaints.length > 0;
  }

  score(request: RoutingRequest, candidates: Candidates, costs: Float64Array): void {
    if (request.preferredTaints.length === 0) return;
    let floor = 0;
    for (let i = 0; i < candidates.count; i++) if (costs[i] < floor) floor = costs[i];
    for (let i = 0; i < candidates.count; i++) {
      if (costs[i] === Number.POSITIVE_INFINITY) continue;
      costs[i] = floor + (costs[i] - floor) * taintFactor(request, candidates.workers[i].taints);
    }
  }

  explain(request: RoutingRequest, candidates: Candidates, index: number): Record<string, number> {
    return { factor: taintFactor(request, candidates.workers[index].taints) };
  }
}

function taintFactor(request: RoutingRequest, taints: readonly string[]): number {
  let sum = 0;
  for (let t = 0; t < request.preferredTaints.length; t++) {
    const preference = request.preferredTaints[t];
    if (taints.includes(preference.taint)) sum += preference.weight;
  }
  return sum === 0 ? 1 : Math.exp(-Math.tanh(sum));
}
