import { describe, expect, it } from 'vitest';
import { ArmatureError } from '@armature/contracts';
import { s3Double, SECRET } from './s3-double.test.support.ts';
import type { Fault, S3Double } from './s3-double.test.support.ts';
import { batchOf, chain, configOf, DEADLINE_MS, hostOf, loaded, openStore, probed, rightRows, stored, until } from './testing.test.support.ts';

const BYTES = 4096;
const [DONE, , MISSING, REFUSED, FAILED, FOREIGN, CANCELED] = [0, 1, 2, 3, 4, 5, 6];
const isData = (method: string): boolean => method === 'GET' || method === 'PUT';
const rejected = async (run: Promise<unknown>): Promise<ArmatureError> => {
  try {
    await run;
  } catch (error) {
    return ArmatureError.from(error, 'OTHER');
  }
  throw new Error('was accepted');
};

/** A stored chain of 32 blocks, and a worker that has found it. */
async function withChain(more = {}) {
  const { double, endpoint } = await s3Double();
  const hashes = chain(1, 32);
  await stored(await openStore(configOf(endpoint), hostOf(BYTES)), batchOf(hashes, 0, 32, BYTES, true));
  const host = hostOf(BYTES);
  const store = await openStore(configOf(endpoint, { recheckMs: 50, ...more }), host);
  expect(await probed(store, hashes)).toBe(32);
  return { double, endpoint, hashes, host, store };
}
const load = async (from: Awaited<ReturnType<typeof withChain>>, deadlineMs = DEADLINE_MS) => {
  const batch = batchOf(from.hashes, 0, 32, BYTES, false);
  const statuses = await loaded(from.store, batch, deadlineMs);
  return { statuses, right: rightRows(batch, BYTES) };
};

describe('what passes', () => {
  it.each<[string, Fault]>([
    ['500', { answer: 500 }],
    ['503 SlowDown', { answer: 503, code: 'SlowDown' }],
    ['429', { answer: 429, code: 'TooManyRequests' }],
    ['400 RequestTimeout', { answer: 400, code: 'RequestTimeout' }],
    ['a connection that is cut', 'reset'],
    ['silence', 'hang'],
    ['an answer that breaks off', { breakAfter: BYTES * 3 + 500 }],
  ])('%s: tried again, all bytes right', async (_name, fault) => {
    const all = await withChain({ requestTimeoutMs: 1000 });
    const failed = new Set<string>();
    all.double.fault = ({ method, key, headers }) => {
      const name = `${method} ${key}`;
      if (!isData(method) || failed.has(name) || (method === 'GET' && headers.range === undefined)) return undefined;
      failed.add(name);
      return fault;
    };
    expect((await load(all)).right).toBe(32);
    if (typeof fault !== 'object' || !('breakAfter' in fault)) expect(await stored(all.store, batchOf(chain(2, 16), 0, 16, BYTES, true))).toEqual(Array(16).fill(DONE));
    expect(all.store.counters.retries).toBeGreaterThanOrEqual(2);
    expect(all.host.problems).toEqual([]);
  });

  it('resumes a broken read with what is missing, not from the start', async () => {
    const all = await withChain();
    let broken = 0;
    all.double.fault = ({ headers }) => (headers.range !== undefined && broken++ === 0 ? { breakAfter: (BYTES + 64) * 5 + 100 } : undefined);
    expect((await load(all)).right).toBe(32);
    const ranges = all.double.seen.flatMap(({ headers }) => (headers.range === undefined ? [] : [headers.range]));
    expect(ranges).toContain(`bytes=${5 * (BYTES + 64)}-${16 * (BYTES + 64) - 1}`);
  });

  it('a clock that is off: learned from the Date header', async () => {
    const { double, endpoint } = await s3Double();
    double.wallMs = () => Date.now() + 3_600_000;
    const store = await openStore(configOf(endpoint), hostOf(BYTES));
    expect(await stored(store, batchOf(chain(3, 16), 0, 16, BYTES, true))).toEqual(Array(16).fill(DONE));
    expect(double.seen[0]!.headers['x-amz-date']).not.toBe(double.seen[1]!.headers['x-amz-date']);
  });

  it('a token that expires: read again', async () => {
    const { double, endpoint } = await s3Double();
    double.sessionToken = 'old';
    const env: Record<string, string> = { AWS_ACCESS_KEY_ID: 'AKIDTEST', AWS_SECRET_ACCESS_KEY: SECRET, AWS_SESSION_TOKEN: 'old' };
    const host = hostOf(BYTES);
    const store = await openStore(configOf(endpoint, { accessKeyId: '', secretAccessKey: '' }), host, env);
    double.sessionToken = env['AWS_SESSION_TOKEN'] = 'new';
    expect(await stored(store, batchOf(chain(4, 16), 0, 16, BYTES, true))).toEqual(Array(16).fill(DONE));
    expect(host.problems).toEqual([]);
  });

  it('hashes bodies into the signature where it is asked to', async () => {
    const { double, endpoint } = await s3Double();
    double.demandsSignedPayload = true;
    const plain = await openStore(configOf(endpoint), hostOf(BYTES));
    expect((await stored(plain, batchOf(chain(5, 16), 0, 16, BYTES, true)))[0]).toBe(REFUSED);
    const hashing = await openStore(configOf(endpoint, { signPayload: 'always' }), hostOf(BYTES));
    expect(await stored(hashing, batchOf(chain(5, 16), 0, 16, BYTES, true))).toEqual(Array(16).fill(DONE));
  });

  it('a store without conditional writes', async () => {
    const { double, endpoint } = await s3Double();
    double.fault = ({ headers }) => (headers['if-none-match'] === undefined ? undefined : { answer: 501, code: 'NotImplemented' });
    const store = await openStore(configOf(endpoint), hostOf(BYTES));
    expect(await stored(store, batchOf(chain(6, 16), 0, 16, BYTES, true))).toEqual(Array(16).fill(DONE));
  });
});

describe('what does not pass', () => {
  it('at open: bucket, credentials and region end with a code and a hint, a store that is down begins degraded', async () => {
    const { double, endpoint } = await s3Double();
    const open = (more: object) => openStore(configOf(endpoint, more), hostOf(BYTES));
    expect(await rejected(open({ bucket: 'other' }))).toMatchObject({ code: 'KVBM_S3_NO_BUCKET', hint: expect.stringContaining('create') });
    expect(await rejected(open({ secretAccessKey: 'wrong' }))).toMatchObject({ code: 'KVBM_S3_DENIED', message: expect.stringContaining('SignatureDoesNotMatch') });
    expect(await rejected(open({ accessKeyId: 'wrong' }))).toMatchObject({ code: 'KVBM_S3_DENIED' });
    double.fault = () => ({ answer: 301, code: 'PermanentRedirect', headers: { 'x-amz-bucket-region': 'eu-west-3', location: 'http://127.0.0.1:1/' } });
    expect(await rejected(open({}))).toMatchObject({ code: 'KVBM_S3_WRONG_REGION', hint: expect.stringContaining('eu-west-3') });
    const host = hostOf(BYTES);
    await openStore(configOf('http://127.0.0.1:1', { openTimeoutMs: 200 }), host);
    expect(host.problems).toMatchObject([{ code: 'KVBM_S3_UNAVAILABLE' }]);
  });

  it('down: answers at once without asking, and comes back by itself', async () => {
    const { double, endpoint } = await s3Double();
    const hashes = chain(1, 32);
    const host = hostOf(BYTES);
    const store = await openStore(configOf(endpoint, { recheckMs: 50, storeTimeoutMs: 300, failuresToOpen: 2 }), host);
    expect(await stored(store, batchOf(hashes, 0, 16, BYTES, true))).toEqual(Array(16).fill(DONE));
    double.fault = () => 'reset';
    while (host.problems.length === 0) await loaded(store, batchOf(hashes, 0, 16, BYTES, false), 200);
    expect(host.problems).toMatchObject([{ code: 'KVBM_S3_UNAVAILABLE' }]);
    const asked = double.seen.filter(({ key }) => !key.endsWith('/check')).length;
    expect(await loaded(store, batchOf(hashes, 0, 16, BYTES, false))).toEqual(Array(16).fill(MISSING));
    expect(await stored(store, batchOf(hashes, 16, 32, BYTES, true))).toEqual(Array(16).fill(REFUSED));
    expect(await probed(store, hashes)).toBe(0);
    expect(store.match(hashes, 0)).toBe(0);
    expect(double.seen.filter(({ key }) => !key.endsWith('/check')).length).toBe(asked);
    double.fault = () => undefined;
    await until('it is well again', () => host.problems.length === 2);
    expect(host.problems[1]).toBeUndefined();
    const batch = batchOf(hashes, 0, 16, BYTES, false);
    await loaded(store, batch);
    expect(rightRows(batch, BYTES)).toBe(16);
  });

  it('refused credentials in the middle: degraded at once', async () => {
    const all = await withChain();
    all.double.fault = () => ({ answer: 403, code: 'InvalidAccessKeyId' });
    expect((await load(all)).statuses).toEqual(Array(32).fill(MISSING));
    expect(all.host.problems).toMatchObject([{ code: 'KVBM_S3_DENIED' }]);
  });

  it('silence: done by the deadline, and a check decides whether the store is there', async () => {
    const all = await withChain({ requestTimeoutMs: 300 });
    all.double.fault = () => 'hang';
    const { statuses } = await load(all, 50);
    expect(statuses).toEqual(Array(32).fill(FAILED));
    await until('it is noticed', () => all.host.problems.length > 0);
    expect(all.host.problems[0]).toMatchObject({ code: 'KVBM_S3_UNAVAILABLE' });
    const unknown = chain(9, 32);
    expect(await probed(all.store, unknown, 0, 50)).toBe(0);
  });

  it('a slow answer after the deadline writes no byte any more', async () => {
    const all = await withChain();
    all.double.fault = () => ({ delayMs: 300 });
    const batch = batchOf(all.hashes, 0, 32, BYTES, false);
    expect(await loaded(all.store, batch, 50)).toEqual(Array(32).fill(FAILED));
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(batch.memory.bytes!.every((byte) => byte === 0)).toBe(true);
    expect(all.host.problems).toEqual([]);
    expect(all.store.match(all.hashes, 0)).toBe(32);
  });

  it('cancelled: every row ends, nothing is lost', async () => {
    const all = await withChain();
    all.double.fault = () => ({ delayMs: 2000 });
    const batch = batchOf(all.hashes, 0, 32, BYTES, false);
    expect(await loaded(all.store, batch, DEADLINE_MS, (operation) => setTimeout(() => operation.cancel(), 20))).toEqual(Array(32).fill(CANCELED));
    expect(all.store.match(all.hashes, 0)).toBe(32);
    expect(all.host.problems).toEqual([]);
  });

  it('closing ends what runs', async () => {
    const all = await withChain({ closeTimeoutMs: 100 });
    all.double.fault = () => 'hang';
    const reading = load(all);
    const writing = stored(all.store, batchOf(chain(3, 16), 0, 16, BYTES, true));
    await all.store.close();
    expect((await reading).statuses).toEqual(Array(32).fill(CANCELED));
    expect((await writing).every((status) => status === FAILED || status === REFUSED)).toBe(true);
    expect(await stored(all.store, batchOf(chain(3, 16), 0, 16, BYTES, true))).toEqual(Array(16).fill(REFUSED));
  });
});

describe('what is in the store is not what it should be', () => {
  const first = (double: S3Double, hashes: Int32Array) => [...double.objects].find(([key]) => key.endsWith((hashes[1]! >>> 0).toString(16).padStart(8, '0') + (hashes[0]! >>> 0).toString(16).padStart(8, '0')))!;

  it('gone: Missing, forgotten', async () => {
    const all = await withChain();
    all.double.objects.delete(first(all.double, all.hashes)[0]);
    expect((await load(all)).statuses).toEqual([...Array(16).fill(MISSING), ...Array(16).fill(DONE)]);
    expect(all.store.match(all.hashes, 0)).toBe(0);
  });

  it('truncated: the rest Failed, dropped, deleted, and written anew', async () => {
    const all = await withChain();
    const [key, object] = first(all.double, all.hashes);
    object.body = object.body.subarray(0, 10 * (BYTES + 64) + 100);
    const { statuses, right } = await load(all);
    expect(statuses.slice(0, 16)).toEqual([...Array(10).fill(DONE), ...Array(6).fill(FAILED)]);
    expect(right).toBe(26);
    expect(all.store.match(all.hashes, 0)).toBe(0);
    await until('it is deleted', () => !all.double.objects.has(key));
    expect(all.store.stats().dropped).toBe(16);
    expect(await stored(all.store, batchOf(all.hashes, 0, 16, BYTES, true))).toEqual(Array(16).fill(DONE));
  });

  it('truncated before it was found: not matched, and replaced by the next writer', async () => {
    const { double, endpoint } = await s3Double();
    const hashes = chain(7, 16);
    await stored(await openStore(configOf(endpoint), hostOf(BYTES)), batchOf(hashes, 0, 16, BYTES, true));
    const object = [...double.objects.values()][0]!;
    object.body = object.body.subarray(0, 100);
    const store = await openStore(configOf(endpoint), hostOf(BYTES));
    expect(await probed(store, hashes)).toBe(0);
    expect(await stored(store, batchOf(hashes, 0, 16, BYTES, true))).toEqual(Array(16).fill(DONE));
    expect(store.counters.unreadableObjects).toBe(1);
    const batch = batchOf(hashes, 0, 16, BYTES, false);
    await loaded(store, batch);
    expect(rightRows(batch, BYTES)).toBe(16);
  });

  it('a damaged record, or one of another block: Failed, Foreign; its neighbours are right', async () => {
    const all = await withChain();
    const [, object] = first(all.double, all.hashes);
    const stride = BYTES + 64;
    object.body = Buffer.from(object.body);
    object.body[3 * stride + 30]! ^= 1;
    object.body.copy(object.body, 5 * stride, 6 * stride, 6 * stride + 64);
    const { statuses } = await load(all);
    expect(statuses.filter((status) => status !== DONE)).toEqual([FAILED, FOREIGN]);
    expect([statuses[3], statuses[5]]).toEqual([FAILED, FOREIGN]);
    expect(all.store.stats().dropped).toBe(16);
  });

  it('a server that ignores ranges', async () => {
    const all = await withChain();
    const [, object] = first(all.double, all.hashes);
    all.double.fault = () => 'whole';
    const batch = batchOf(all.hashes, 4, 16, BYTES, false);
    await loaded(all.store, batch);
    expect(rightRows(batch, BYTES)).toBe(12);
    expect(object.body.length).toBe(16 * (BYTES + 64));
  });
});
