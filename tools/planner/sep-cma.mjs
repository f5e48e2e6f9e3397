// Separable CMA-ES (Ros and Hansen, 2008): evolution of a diagonal Gaussian by the ranks of its samples.

function normal(random) {
  return Math.sqrt(-2 * Math.log(1 - random.next())) * Math.cos(2 * Math.PI * random.next());
}

/** Ranks by reward; the best half pulls the mean, weighted by rank. */
export class SepCma {
  constructor(n, lambda, sigma, random) {
    const mu = Math.floor(lambda / 2);
    const raw = Array.from({ length: mu }, (_, i) => Math.log(mu + 0.5) - Math.log(i + 1));
    const total = raw.reduce((sum, value) => sum + value, 0);
    this.weights = raw.map((value) => value / total);
    this.muEff = 1 / this.weights.reduce((sum, value) => sum + value * value, 0);
    this.cSigma = (this.muEff + 2) / (n + this.muEff + 5);
    this.dSigma = 1 + 2 * Math.max(0, Math.sqrt((this.muEff - 1) / (n + 1)) - 1) + this.cSigma;
    this.cC = (4 + this.muEff / n) / (n + 4 + (2 * this.muEff) / n);
    const c1 = 2 / ((n + 1.3) ** 2 + this.muEff);
    const cMu = Math.min(1 - c1, (2 * (this.muEff - 2 + 1 / this.muEff)) / ((n + 2) ** 2 + this.muEff));
    // A diagonal has so much less to learn that it may learn so much faster.
    this.c1 = (c1 * (n + 2)) / 3;
    this.cMu = Math.min(1 - this.c1, (cMu * (n + 2)) / 3);
    this.chi = Math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n));
    Object.assign(this, { n, lambda, sigma, random, mean: new Float64Array(n), variance: new Float64Array(n).fill(1), pathSigma: new Float64Array(n), pathC: new Float64Array(n), generation: 0 });
  }

  ask() {
    this.steps = Array.from({ length: this.lambda }, () => this.variance.map((value) => Math.sqrt(value) * normal(this.random)));
    return this.steps.map((step) => this.mean.map((value, i) => value + this.sigma * step[i]));
  }

  tell(rewards) {
    const order = [...rewards.keys()].sort((a, b) => rewards[b] - rewards[a]);
    const best = this.weights.map((weight, k) => ({ weight, step: this.steps[order[k]] }));
    const pulled = this.mean.map((_, i) => best.reduce((sum, { weight, step }) => sum + weight * step[i], 0));
    this.generation++;
    this.mean = this.mean.map((value, i) => value + this.sigma * pulled[i]);
    const keep = Math.sqrt(this.cSigma * (2 - this.cSigma) * this.muEff);
    this.pathSigma = this.pathSigma.map((value, i) => (1 - this.cSigma) * value + (keep * pulled[i]) / Math.sqrt(this.variance[i]));
    const length = Math.sqrt(this.pathSigma.reduce((sum, value) => sum + value * value, 0));
    const isSettled = length / Math.sqrt(1 - (1 - this.cSigma) ** (2 * this.generation)) < (1.4 + 2 / (this.n + 1)) * this.chi ? 1 : 0;
    const keepC = isSettled * Math.sqrt(this.cC * (2 - this.cC) * this.muEff);
    this.pathC = this.pathC.map((value, i) => (1 - this.cC) * value + keepC * pulled[i]);
    this.variance = this.variance.map((value, i) => {
      const rank = best.reduce((sum, { weight, step }) => sum + weight * step[i] * step[i], 0);
      return (1 - this.c1 - this.cMu) * value + this.c1 * this.pathC[i] ** 2 + this.cMu * rank;
    });
    this.sigma *= Math.exp((this.cSigma / this.dSigma) * (length / this.chi - 1));
  }
}
