import { kvTierContract } from '@armature/contracts/testing/kv-tier';
import { beforeAll, describe, expect, it } from 'vitest';
import { S3Tier } from './s3-tier.ts';
import { isVersitygw, RealServer } from './server.test.support.ts';
import { batchOf, chain, hostOf, loaded, openStore, probed, rightRows, seeded, stored, until } from './testing.test.support.ts';

const BYTES = 65_536;
let server: RealServer;
let nextPrefix = 0;
const fresh = (): string => `p${nextPrefix++}`;
beforeAll(async () => {
  server = await RealServer.start();
});

kvTierContract({
  runner: { describe, it },
  isBounded: false,
  create: () => new S3Tier(server.config({ prefix: fresh() }), seeded(3), { env: {}, home: '/nowhere', read: () => undefined }),
});

describe('a real S3 server', () => {
  it('two workers share by content: stored once, found by hashes alone, all bytes right', async () => {
    const config = server.config({ prefix: fresh() });
    const [first, second] = [chain(1, 40), chain(1, 40, 20, 5)];
    const [a, b] = await Promise.all([openStore(config, hostOf(BYTES)), openStore(config, hostOf(BYTES))]);
    expect(await stored(a, batchOf(first, 0, 40, BYTES, true))).toEqual(Array(40).fill(0));
    expect(await stored(b, batchOf(second, 0, 40, BYTES, true))).toEqual([...Array(20).fill(1), ...Array(20).fill(0)]);
    expect(b.counters.conflicts).toBeGreaterThan(0);
    await Promise.all([a.close(), b.close()]);
    const reader = await openStore(config, hostOf(BYTES));
    for (const hashes of [first, second]) {
      expect(await probed(reader, hashes)).toBe(40);
      const batch = batchOf(hashes, 0, 40, BYTES, false);
      await loaded(reader, batch);
      expect(rightRows(batch, BYTES)).toBe(40);
    }
  });

  it.runIf(isVersitygw)('bodies signed; wrong credentials refused at open', async () => {
    const config = server.config({ prefix: fresh(), signPayload: 'always' });
    const hashes = chain(2, 16);
    expect(await stored(await openStore(config, hostOf(BYTES)), batchOf(hashes, 0, 16, BYTES, true))).toEqual(Array(16).fill(0));
    await expect(openStore(server.config({ secretAccessKey: 'wrong' }), hostOf(BYTES))).rejects.toMatchObject({ code: 'KVBM_S3_DENIED' });
    await expect(openStore(server.config({ bucket: 'none' }), hostOf(BYTES))).rejects.toMatchObject({ code: 'KVBM_S3_NO_BUCKET' });
  });

  it.runIf(isVersitygw)('killed in the middle and started again: no wrong byte, degraded, well again, nothing lost that was Done', async () => {
    const own = await RealServer.start();
    const config = own.config({ prefix: fresh(), recheckMs: 100, failuresToOpen: 2, storeTimeoutMs: 2_000 });
    const host = hostOf(BYTES);
    const store = await openStore(config, host);
    const hashes = chain(3, 16 * 40);
    const done = new Set<number>();
    const writing = Array.from({ length: 40 }, async (_, i) => {
      const statuses = await stored(store, batchOf(hashes, i * 16, i * 16 + 16, BYTES, true));
      if (statuses.every((status) => status === 0)) done.add(i);
    });
    await until('some are written', () => done.size >= 5);
    await own.kill();
    await Promise.all(writing);
    await until('it is noticed', () => host.problems.length > 0 || done.size === 40);
    while (host.problems.length === 0) await loaded(store, batchOf(hashes, 0, 16, BYTES, false), 500);
    expect(host.problems[0]).toMatchObject({ code: 'KVBM_S3_UNAVAILABLE' });
    expect(await loaded(store, batchOf(hashes, 0, 16, BYTES, false))).toEqual(Array(16).fill(2));
    await own.up();
    await until('it is well again', () => host.problems.at(-1) === undefined);
    const reader = await openStore(config, hostOf(BYTES));
    for (const i of done) {
      const part = hashes.subarray(i * 32, i * 32 + 32);
      expect(await probed(reader, part)).toBe(16);
      const batch = batchOf(hashes, i * 16, i * 16 + 16, BYTES, false);
      await loaded(reader, batch);
      expect(rightRows(batch, BYTES)).toBe(16);
    }
    await Promise.all(Array.from({ length: 40 }, (_, i) => (done.has(i) ? undefined : stored(store, batchOf(hashes, i * 16, i * 16 + 16, BYTES, true)))));
    expect(await probed(store, hashes)).toBe(640);
  });
});
