// What `npm run test:chaos` sees of its processes while they run.
const SAMPLE_EVERY_MS = 5_000;
/** Records are looked at this long after a request has moved: it has ended by then. */
export const SETTLE_MS = 5_000;

/** Sum of a counter over its labels, in the text of /metrics. */
export const sumOf = (text, name) => text.split('\n').filter((line) => line.startsWith(name) && '{ '.includes(line[name.length])).reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);

/** RSS and open handles of every process over time. */
export class Series {
  #samples = [];
  #timer;

  constructor(parts, startedMs) {
    const sample = () => this.#samples.push({ atS: (performance.now() - startedMs) / 1000, of: parts.map((part) => ({ name: part.name, ...part.resources() })) });
    this.#timer = setInterval(sample, SAMPLE_EVERY_MS);
    this.sample = sample;
  }

  close() {
    clearInterval(this.#timer);
  }

  of(name, life) {
    return this.#samples.map(({ atS, of }) => ({ atS, ...of.find((row) => row.name === name) })).filter((row) => row.life === life);
  }

  print(part) {
    const rows = this.of(part.name, part.lives);
    const every = Math.max(1, Math.ceil(rows.length / 12));
    console.log(`       ${part.name} (life ${part.lives}): ${rows.filter((_, i) => i % every === 0 || i === rows.length - 1).map(({ atS, rssMb, handles }) => `${atS.toFixed(0)} s ${rssMb.toFixed(0)} MB ${handles} handles`).join(' · ')}`);
  }
}

/** Counters of lives that ended would be lost: the last value of each life is kept. */
export class Tally {
  #seen = new Map();

  async look(cluster, agent) {
    await Promise.all(
      cluster.workers.filter(({ isReady, isHeld }) => isReady && !isHeld).map(async (worker) => {
        const { lives } = worker;
        const text = await agent.get(`${worker.adminUrl}/metrics`);
        if (text !== undefined) this.#seen.set(`${worker.name} ${lives}`, text);
      }),
    );
  }

  sum(name) {
    return [...this.#seen.values()].reduce((sum, text) => sum + sumOf(text, name), 0);
  }
}

/** What the frontend's records say of the requests that changed workers. */
export class Moves {
  added = [];
  #cluster;
  #agent;
  #waiting = [];

  constructor(cluster, agent) {
    this.#cluster = cluster;
    this.#agent = agent;
    cluster.moved.clear();
  }

  async collect() {
    const now = performance.now();
    for (const id of this.#cluster.moved) this.#waiting.push({ id, atMs: now });
    this.#cluster.moved.clear();
    const ripe = this.#waiting.filter(({ atMs }) => now - atMs >= SETTLE_MS - 100);
    this.#waiting = this.#waiting.filter((entry) => !ripe.includes(entry));
    for (const { id } of ripe) {
      const record = await this.#agent.get(`${this.#cluster.adminUrl}/requests/${id}`);
      for (const { code, addedMs } of record?.moves ?? []) if (addedMs !== undefined) this.added.push({ code, addedMs });
    }
  }
}
