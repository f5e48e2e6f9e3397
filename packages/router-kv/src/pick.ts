// @hot
import type { Random } from '@armature/contracts';

/** Index of the lowest finite cost, equal ones uniformly at random (reservoir); -1 when every candidate is excluded. */
export function pickLowest(costs: Float64Array, count: number, random: Random): number {
  let best = -1;
  let bestCost = Number.POSITIVE_INFINITY;
  let ties = 0;
  for (let i = 0; i < count; i++) {
    const cost = costs[i];
    if (cost < bestCost) {
      best = i;
      bestCost = cost;
      ties = 1;
    } else if (cost === bestCost && cost !== Number.POSITIVE_INFINITY) {
      ties++;
      if (random.below(ties) === 0) best = i;
    }
  }
  return best;
}

/**
 * Draws an index with p ∝ exp(-(cost - min) / ((max - min) · temperature)), min and max over the finite costs
 * (Dynamo 1.6.1). `weights` is scratch of at least `count`. All equal: uniform. -1 when every candidate is excluded.
 */
export function pickSoftmax(costs: Float64Array, count: number, temperature: number, random: Random, weights: Float64Array): number {
  let min = Number.POSITIVE_INFINITY;
  let max = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < count; i++) {
    const cost = costs[i];
    if (cost < min) min = cost;
    if (cost > max && cost !== Number.POSITIVE_INFINITY) max = cost;
  }
  if (max === Number.NEGATIVE_INFINITY || max <= min) return pickLowest(costs, count, random);
  const scale = 1 / ((max - min) * temperature);
  let sum = 0;
  for (let i = 0; i < count; i++) {
    weights[i] = costs[i] < Number.POSITIVE_INFINITY ? Math.exp((min - costs[i]) * scale) : 0;
    sum += weights[i];
  }
  let left = random.next() * sum;
  let last = -1;
  for (let i = 0; i < count; i++) {
    if (weights[i] === 0) continue;
    last = i;
    left -= weights[i];
    if (left < 0) return i;
  }
  return last;
}
