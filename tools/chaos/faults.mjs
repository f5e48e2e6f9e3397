// What `npm run test:chaos` does to its processes: one thing every few seconds, drawn from a seed.

/** How long a process is stopped, or a line cut. */
const HOLD_MS = 3_000;

export function seeded(seed) {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (mixed ^ (mixed >>> 14)) >>> 0;
  };
  return { below: (bound) => next() % bound, pick: (items) => items[next() % items.length] };
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export class Faults {
  counts = { 'kill -9': 0, SIGSTOP: 0, SIGTERM: 0, cut: 0 };
  /** Times when a pool had nobody to spare. */
  skipped = 0;
  log = [];
  /** What was not mended. */
  errors = [];
  #open = new Set();
  #bag = [];

  /** `network` undefined: lines are not cut. */
  constructor({ workers, network, random, startedMs }) {
    Object.assign(this, { workers, network, random, startedMs });
  }

  get kinds() {
    return Object.keys(this.counts).filter((kind) => kind !== 'cut' || this.network !== undefined);
  }

  /** Every kind once before any comes again, in an order that is drawn. */
  strike() {
    if (this.#bag.length === 0) this.#bag = this.kinds;
    const kind = this.#bag.splice(this.random.below(this.#bag.length), 1)[0];
    const fault = kind === 'cut' ? this.#cut() : this.#hit(kind);
    if (fault === undefined) {
      this.skipped++;
      this.#bag.push(kind);
      return;
    }
    this.counts[kind]++;
    this.log.push(`${((performance.now() - this.startedMs) / 1000).toFixed(0)} s ${kind} ${fault.what}`);
    const done = fault
      .run()
      .catch((error) => this.errors.push(error.message))
      .then(() => this.#open.delete(done));
    this.#open.add(done);
  }

  /** Resolves when nothing is held, cut or starting. */
  async over() {
    await Promise.all(this.#open);
  }

  #isFit(part) {
    return part.isReady && !part.isHeld;
  }

  /** Somebody else of each pool must be fit. */
  #canSpare(parts) {
    return parts.every((part) => this.workers.some((other) => other.pool === part.pool && !parts.includes(other) && this.#isFit(other)));
  }

  #hit(kind) {
    const fit = this.workers.filter((part) => this.#isFit(part) && this.#canSpare([part]) && (kind === 'SIGSTOP' || !part.isSurvivor));
    if (fit.length === 0) return undefined;
    const part = this.random.pick(fit);
    return { what: part.name, run: () => this.#hold([part], () => this.#harm(kind, part)) };
  }

  async #harm(kind, part) {
    if (kind === 'SIGSTOP') {
      part.signal('SIGSTOP');
      await pause(HOLD_MS);
      part.signal('SIGCONT');
      return;
    }
    const { lives } = part;
    part.signal(kind === 'SIGTERM' ? 'SIGTERM' : 'SIGKILL');
    const deadline = performance.now() + 60_000;
    while (!(part.lives > lives && part.isReady)) {
      if (performance.now() > deadline) throw new Error(`${part.name} did not start again after ${kind}`);
      await pause(50);
    }
  }

  #cut() {
    const hosts = [...new Set(this.workers.map(({ host }) => host.name))];
    const a = this.random.pick(['front', ...hosts]);
    const b = this.random.pick(hosts.filter((name) => name !== a));
    const behind = this.workers.filter(({ host }) => host.name === b || host.name === a);
    if (!behind.every((part) => this.#isFit(part)) || !this.#canSpare(behind)) return undefined;
    const run = async () => {
      await this.network.order({ cut: [a, b] });
      await pause(HOLD_MS);
      await this.network.order({ heal: true });
    };
    return { what: `${a} – ${b}`, run: () => this.#hold(behind, run) };
  }

  async #hold(parts, run) {
    for (const part of parts) part.isHeld = true;
    try {
      await run();
    } finally {
      for (const part of parts) part.isHeld = false;
    }
  }
}
