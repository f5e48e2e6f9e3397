import { definePlugin } from '@armature/contracts';

/** A worker's price per hour, in blocks of cost: among equals the cheap one gets the request. */
class CheapestScorer {
  name = 'cheapest';
  score(_request, candidates, costs) {
    for (let i = 0; i < candidates.count; i++) costs[i] += candidates.costPerHour[i];
  }
  explain(_request, candidates, index) {
    return { costPerHour: candidates.costPerHour[index] };
  }
}

export default definePlugin({
  kind: 'router-scorer',
  contract: 'v1',
  name: 'cheapest',
  description: 'Prefers workers on cheap hardware.',
  configSchema: { type: 'object', additionalProperties: false, properties: {} },
  create: () => new CheapestScorer(),
});
