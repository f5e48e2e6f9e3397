import { describe, expect, it } from 'vitest';
import { s3Double } from './s3-double.test.support.ts';
import { batchOf, chain, configOf, DEADLINE_MS, hostOf, loaded, openStore, probed, rightRows, seeded, stored, until } from './testing.test.support.ts';

const BYTES = 4096;
const DONE = 0;
const PRESENT = 1;

describe('the object tier', () => {
  it('stores a chain as objects of 16 blocks; another worker that knows only the hashes finds and reads it', async () => {
    const { double, endpoint } = await s3Double();
    const hashes = chain(1, 40);
    const writer = await openStore(configOf(endpoint), hostOf(BYTES));
    expect(await stored(writer, batchOf(hashes, 0, 40, BYTES, true))).toEqual(Array(40).fill(DONE));
    expect(double.objects.size).toBe(2);
    expect(writer.match(hashes, 0)).toBe(40);
    await writer.close();
    expect(double.objects.size).toBe(3);
    const host = hostOf(BYTES);
    const reader = await openStore(configOf(endpoint), host);
    expect(reader.match(hashes, 0)).toBe(0);
    expect(await probed(reader, hashes)).toBe(40);
    expect(double.count('HEAD')).toBe(3);
    expect(reader.match(hashes, 0)).toBe(40);
    const batch = batchOf(hashes, 5, 38, BYTES, false);
    await loaded(reader, batch);
    expect(rightRows(batch, BYTES)).toBe(33);
    expect(host.moved.load).toBe(33);
    // Three objects, three ranged reads; nothing but the check at open besides.
    expect(double.seen.filter(({ method, headers }) => method === 'GET' && headers.range !== undefined)).toHaveLength(3);
    expect(double.refusedSignatures).toEqual([]);
  });

  it('gives staged blocks back from memory, and writes them when nothing follows', async () => {
    const { double, endpoint } = await s3Double();
    const hashes = chain(2, 5);
    const store = await openStore(configOf(endpoint, { flushAfterMs: 400 }), hostOf(BYTES));
    const source = batchOf(hashes, 0, 5, BYTES, true);
    expect(await stored(store, source)).toEqual(Array(5).fill(DONE));
    source.memory.bytes!.fill(0);
    expect(double.objects.size).toBe(0);
    const early = batchOf(hashes, 0, 5, BYTES, false);
    await loaded(store, early);
    expect(rightRows(early, BYTES)).toBe(5);
    expect(store.counters.stagedBlocks).toBe(5);
    await until('the object is written', () => store.counters.stagedBlocks === 0);
    const late = batchOf(hashes, 0, 5, BYTES, false);
    await loaded(store, late);
    expect(rightRows(late, BYTES)).toBe(5);
    expect(double.objects.size).toBe(1);
  });

  it('writes shorter objects at once when there is no memory for waiting blocks', async () => {
    const { double, endpoint } = await s3Double();
    const store = await openStore(configOf(endpoint, { stagedBytes: 0 }), hostOf(BYTES));
    expect(await stored(store, batchOf(chain(3, 5), 0, 5, BYTES, true))).toEqual(Array(5).fill(DONE));
    expect(double.objects.size).toBe(1);
  });

  it('stores what two workers share once: Present, and only the rest of a forked chain is written', async () => {
    const { double, endpoint } = await s3Double();
    const first = chain(4, 48);
    const second = chain(4, 48, 20, 99);
    const a = await openStore(configOf(endpoint), hostOf(BYTES));
    const b = await openStore(configOf(endpoint), hostOf(BYTES));
    await stored(a, batchOf(first, 0, 48, BYTES, true));
    const bytesOfA = [...double.objects.values()].reduce((sum, { body }) => sum + body.length, 0);
    const statuses = await stored(b, batchOf(second, 0, 48, BYTES, true));
    expect(statuses).toEqual([...Array(20).fill(PRESENT), ...Array(28).fill(DONE)]);
    const bytesOfB = [...double.objects.values()].reduce((sum, { body }) => sum + body.length, 0) - bytesOfA;
    expect(bytesOfB).toBe(28 * (BYTES + 64));
    const reader = await openStore(configOf(endpoint), hostOf(BYTES));
    expect(await probed(reader, second)).toBe(48);
    const batch = batchOf(second, 0, 48, BYTES, false);
    await loaded(reader, batch);
    expect(rightRows(batch, BYTES)).toBe(48);
    expect(b.stats()).toMatchObject({ duplicates: 20, stores: 28 });
  });

  it('two workers writing the same at once: every row ends held, one object each', async () => {
    const { double, endpoint } = await s3Double();
    double.fault = ({ method }) => (method === 'PUT' ? { delayMs: 5 } : undefined);
    const hashes = chain(5, 64);
    const stores = await Promise.all([1, 2].map(() => openStore(configOf(endpoint), hostOf(BYTES))));
    const results = await Promise.all(stores.map((store) => stored(store, batchOf(hashes, 0, 64, BYTES, true))));
    expect(results.flat().filter((status) => status > PRESENT)).toEqual([]);
    expect(results.flat().filter((status) => status === DONE)).toHaveLength(64);
    expect(double.objects.size).toBe(4);
    expect(stores[0]!.counters.conflicts + stores[1]!.counters.conflicts).toBeGreaterThan(0);
  });

  it('another model, layout or block size shares nothing', async () => {
    const { endpoint } = await s3Double();
    const hashes = chain(6, 16);
    await stored(await openStore(configOf(endpoint), hostOf(BYTES)), batchOf(hashes, 0, 16, BYTES, true));
    for (const host of [hostOf(BYTES, { modelFingerprint: 'model-b' }), hostOf(BYTES, { layoutFingerprint: 'other' }), hostOf(BYTES / 2)]) {
      expect(await probed(await openStore(configOf(endpoint), host), hashes)).toBe(0);
    }
  });

  it('rows of a chain whose beginning was never seen are found all the same', async () => {
    const { endpoint } = await s3Double();
    const hashes = chain(7, 50);
    const a = await openStore(configOf(endpoint), hostOf(BYTES));
    await stored(a, batchOf(hashes, 0, 21, BYTES, true));
    await a.close();
    const b = await openStore(configOf(endpoint), hostOf(BYTES));
    await stored(b, batchOf(hashes, 21, 50, BYTES, true));
    expect(b.counters.unplacedRows).toBeGreaterThan(0);
    await b.close();
    const reader = await openStore(configOf(endpoint), hostOf(BYTES));
    expect(await probed(reader, hashes)).toBe(50);
  });

  it('a prompt that nobody stored costs four questions, and none when asked again', async () => {
    const { double, endpoint } = await s3Double();
    const store = await openStore(configOf(endpoint), hostOf(BYTES));
    expect(await probed(store, chain(8, 512))).toBe(0);
    await until('all questions are answered', () => double.count('HEAD') === store.counters.heads);
    expect(store.counters.heads).toBe(4);
    expect(await probed(store, chain(8, 512))).toBe(0);
    expect(store.counters.heads).toBe(4);
  });

  it('records come parents first, and what is evicted or expires is told', async () => {
    const { endpoint } = await s3Double();
    const host = hostOf(BYTES);
    const store = await openStore(configOf(endpoint, { knownBlocks: 32, knownTtlMs: 300 }), host);
    const hashes = chain(9, 32);
    await stored(store, batchOf(hashes, 16, 32, BYTES, true));
    await stored(store, batchOf(hashes, 0, 16, BYTES, true));
    const held = new Set<string>();
    store.records((lo, hi, parentLo, parentHi) => {
      if (parentLo !== 0 || parentHi !== 0) expect(held.has(`${parentLo},${parentHi}`)).toBe(true);
      held.add(`${lo},${hi}`);
    });
    expect(held.size).toBe(32);
    await stored(store, batchOf(chain(10, 16), 0, 16, BYTES, true));
    expect(host.gone.filter(([, reason]) => reason === 'evicted')).toHaveLength(16);
    await until('all have expired', () => host.gone.filter(([, reason]) => reason === 'expired').length === 32);
    expect(store.match(hashes, 0)).toBe(0);
    expect(store.stats().heldBlocks).toBe(0);
  });

  it('remove forgets; for corrupt blocks the object goes too, so that it can be written anew', async () => {
    const { double, endpoint } = await s3Double();
    const store = await openStore(configOf(endpoint), hostOf(BYTES));
    const hashes = chain(11, 32);
    await stored(store, batchOf(hashes, 0, 32, BYTES, true));
    expect(store.remove(hashes.subarray(0, 2), 1, 'removed')).toBe(1);
    expect(store.match(hashes, 0)).toBe(0);
    expect(await probed(store, hashes)).toBe(32);
    double.objects.set('foreign', { body: Buffer.from('x'), meta: {} });
    expect(store.remove(hashes.subarray(32, 34), 1, 'corrupt')).toBe(1);
    await until('the object is deleted', () => double.objects.size === 2);
    expect(double.objects.has('foreign')).toBe(true);
    expect(await stored(store, batchOf(hashes, 16, 17, BYTES, true))).toEqual([DONE]);
  });

  it('loads everything that many chains with forks stored, whatever the order, sizes and workers', { timeout: 60_000 }, async () => {
    const seed = 20_261_123;
    console.log(`seed ${seed}`);
    const random = seeded(seed);
    const { double, endpoint } = await s3Double();
    for (let round = 0; round < 6; round++) {
      double.objects.clear();
      const config = configOf(endpoint, { blocksPerObject: [4, 16, 7][round % 3]!, stagedBytes: [8, 1000][round % 2]! * 256, prefix: `r${round}` });
      const workers = await Promise.all([0, 1].map(() => openStore(config, hostOf(256))));
      const prompts = Array.from({ length: 8 }, () => chain(round, 5 + random.below(60), random.below(50), random.below(3) + 1));
      for (const prompt of prompts) {
        const worker = workers[random.below(2)]!;
        let from = Math.max(worker.match(prompt, 0), await probed(worker, prompt));
        while (from < prompt.length / 2) {
          const to = Math.min(prompt.length / 2, from + 1 + random.below(20));
          const statuses = await stored(worker, batchOf(prompt, from, to, 256, true));
          expect(statuses.filter((status) => status > PRESENT)).toEqual([]);
          from = to;
        }
      }
      await Promise.all(workers.map((worker) => worker.close()));
      const reader = await openStore(config, hostOf(256));
      for (const prompt of prompts) {
        const blocks = prompt.length / 2;
        expect([round, await probed(reader, prompt)]).toEqual([round, blocks]);
        const batch = batchOf(prompt, 0, blocks, 256, false);
        await loaded(reader, batch, DEADLINE_MS);
        expect(rightRows(batch, 256)).toBe(blocks);
      }
    }
    expect(double.refusedSignatures).toEqual([]);
  });
});
