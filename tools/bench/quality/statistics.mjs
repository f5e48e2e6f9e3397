export const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** Two-sided 95 % quantiles of Student's t by degrees of freedom (1 … 10), then the normal one. */
const T95 = [NaN, 12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];

/** Mean of the paired ratios a/b (geometric) with its 95 % interval. Pairs are replays of equal seed. */
export function pairedRatio(a, b) {
  const logs = a.map((value, i) => Math.log(value / b[i]));
  const centre = mean(logs);
  if (logs.length === 1) return { ratio: Math.exp(centre), low: NaN, high: NaN };
  const deviation = Math.sqrt(logs.reduce((sum, value) => sum + (value - centre) ** 2, 0) / (logs.length - 1));
  const half = ((T95[logs.length - 1] ?? 1.96) * deviation) / Math.sqrt(logs.length);
  return { ratio: Math.exp(centre), low: Math.exp(centre - half), high: Math.exp(centre + half) };
}
