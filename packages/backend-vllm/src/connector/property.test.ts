import { expect, test } from 'vitest';
import { BLOCK_SIZE, ConnectedWorker, contentOf, FakePython, tokensOf, until } from './fake-python.test.support.ts';

/** Mulberry32. */
function seeded(seed: number): (bound: number) => number {
  let state = seed >>> 0;
  return (bound) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % bound;
  };
}

/** An engine that does everything it may, in any order, and is killed in the middle of it. */
class WildEngine {
  readonly worker: ConnectedWorker;
  readonly #below: (bound: number) => number;
  readonly #leases: { lease: number; hashes: Int32Array; blocks: number[] }[] = [];
  readonly #reservations: { reservation: number; hashes: Int32Array; rows: number[]; blocks: number[] }[] = [];
  readonly seen = { pulled: 0, kept: 0, killed: 0, spoilt: 0, expired: 0 };
  #prompt = 1;

  constructor(worker: ConnectedWorker, below: (bound: number) => number) {
    this.worker = worker;
    this.#below = below;
  }

  async step(): Promise<void> {
    const action = this.#below(12);
    if (action < 3) await this.#reserve();
    else if (action < 6) await this.#commit();
    else if (action < 9) await this.#pull();
    else if (action < 11) await this.#release();
    else if (this.#below(2) === 0) await this.#kill();
    else await this.#spoil();
  }

  /** Prompts share their beginnings. */
  #tokens(): Int32Array {
    const tokens = tokensOf(1, (1 + this.#below(6)) * BLOCK_SIZE);
    const forkAt = this.#below(4) * BLOCK_SIZE;
    const fork = this.#below(3);
    return tokens.map((token, i) => (i >= forkAt ? token ^ (fork << 10) : token));
  }

  async #reserve(): Promise<void> {
    const { hashes } = await this.worker.match(this.#prompt++, this.#tokens());
    const reservation = await this.worker.reserve(hashes);
    if (reservation.reservation !== 0) this.#reservations.push({ hashes, ...reservation });
  }

  /** Fills all of it, tells of a part. */
  async #commit(): Promise<void> {
    const found = this.#reservations.splice(this.#below(Math.max(1, this.#reservations.length)), 1)[0];
    if (found === undefined) return;
    found.rows.forEach((row, i) => this.worker.bytes(found.blocks[i]).set(contentOf(found.hashes, row)));
    this.seen.kept += await this.worker.commit(found.reservation, this.#below(found.rows.length + 1));
  }

  async #pull(): Promise<void> {
    const prompt = this.#prompt++;
    const { hashes, blocks: held } = await this.worker.match(prompt, this.#tokens());
    const { lease, blocks } = await this.worker.pull(prompt, hashes.length / 2);
    expect(blocks.length).toBeLessThanOrEqual(held);
    if (lease !== 0) this.#leases.push({ lease, hashes, blocks });
  }

  /** What it copied before is right whenever the lease was. */
  async #release(): Promise<void> {
    const found = this.#leases.splice(this.#below(Math.max(1, this.#leases.length)), 1)[0];
    if (found === undefined) return;
    const copied = found.blocks.map((block) => this.worker.bytes(block).slice());
    if (!(await this.worker.release(found.lease))) return void this.seen.expired++;
    expect(copied.map((bytes, row) => Buffer.compare(bytes, contentOf(found.hashes, row)))).toEqual(found.blocks.map(() => 0));
    this.seen.pulled += found.blocks.length;
  }

  async #kill(): Promise<void> {
    const role = this.#below(2) === 0 ? 'worker' : 'scheduler';
    await this.worker[role].close();
    await until('everything is back', () => this.worker.held() === 0);
    this.worker[role] = await FakePython.hello(this.worker.connector, role);
    this.seen.killed++;
  }

  /** Memory rots while nobody uses it. */
  async #spoil(): Promise<void> {
    while (this.#leases.length > 0) await this.#release();
    while (this.#reservations.length > 0) await this.#commit();
    this.worker.bytes(this.#below(24))[this.#below(100)] ^= 1 << this.#below(8);
    this.seen.spoilt++;
  }

  async end(): Promise<void> {
    for (const role of ['worker', 'scheduler'] as const) await this.worker[role].close();
    await until('everything is back', () => this.worker.held() === 0);
  }
}

test.each([101, 102, 103])('whatever an engine does and however it dies: right bytes under valid leases, nothing left (seed %i)', async (seed) => {
  const worker = await ConnectedWorker.open({ hostBlocks: 24 });
  const engine = new WildEngine(worker, seeded(seed));
  try {
    for (let i = 0; i < 400; i++) await engine.step();
    await engine.end();
    const { pinnedBlocks } = worker.manager.stats().tiers[0];
    expect([pinnedBlocks, worker.connector.prompts], `seed ${seed}`).toEqual([0, 0]);
    expect(Object.entries(engine.seen).filter(([, count]) => count === 0), `seed ${seed}: ${JSON.stringify(engine.seen)}`).toEqual([]);
  } finally {
    await worker.close();
  }
});
