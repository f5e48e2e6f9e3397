import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Registration } from '@armature/contracts';
import type { EtcdDiscovery } from './etcd-discovery.ts';
import { EtcdServer } from './etcd-server.test.support.ts';
import { discovery, factsOf, freshNamespace, Recorder, seededRandom, sleep, until } from './fixtures.test.support.ts';
import type { EtcdDiscoveryConfig } from './options.ts';
import { Proxy } from './proxy.test.support.ts';

// Each test has an etcd of its own, because it is killed, wiped, stopped and compacted.
let server: EtcdServer;
let namespace: string;
const open: EtcdDiscovery[] = [];

beforeEach(async () => {
  server = await EtcdServer.make();
  namespace = freshNamespace();
});
afterEach(async () => {
  server.thaw();
  await Promise.all(open.splice(0).map((instance) => instance.close()));
  await server.remove();
});

async function client(config: Partial<EtcdDiscoveryConfig> = {}): Promise<EtcdDiscovery> {
  const instance = discovery({ endpoints: [server.endpoint], namespace, ...config }, open.length + 1);
  open.push(instance);
  await instance.start();
  return instance;
}

async function pair(config: Partial<EtcdDiscoveryConfig> = {}): Promise<{ owner: EtcdDiscovery; reader: EtcdDiscovery; seen: Recorder }> {
  const owner = await client(config);
  const reader = await client(config);
  const seen = new Recorder();
  await reader.watch('w/', seen);
  return { owner, reader, seen };
}

const connected = (instance: EtcdDiscovery) => (): boolean => factsOf(instance).get('connected') === 1;
const lost = (instance: EtcdDiscovery) => (): boolean => factsOf(instance).get('connected') === 0;
const leases = async (): Promise<number> => Number(/found (\d+) leases/.exec(await server.ctl('lease', 'list'))?.[1]);

describe('etcd outages', () => {
  it('kill -9 and restart with the same data: nobody goes, later changes arrive', async () => {
    const { owner, reader, seen } = await pair();
    const registration = await owner.register('w/a', 1);
    await until('the entry', () => seen.entries.size === 1);
    await server.kill();
    await until('the loss is noticed', () => lost(reader)() && lost(owner)());
    expect(factsOf(reader).health.get('discovery')).toBe('degraded');
    await server.start();
    await registration.update(2);
    await until('the update', () => seen.entries.get('w/a') === 2);
    expect(seen.lines).toEqual(['synced', 'put w/a 1', 'put w/a 2']);
    expect(factsOf(reader).get('reconnects_total')).toBeGreaterThan(0);
    expect(factsOf(reader).get('watch_restarts_total revision')).toBeGreaterThan(0);
    expect(factsOf(reader).get('watch_restarts_total snapshot')).toBe(0);
    expect(factsOf(reader).health.get('discovery')).toBe('ready');
  });

  it('kill -9 and restart without the data: every owner registers again and no watcher loses an entry', async () => {
    const { owner, reader, seen } = await pair();
    for (let i = 0; i < 50; i++) await owner.register(`w/${i}`, i);
    await until('all entries', () => seen.entries.size === 50);
    const before = seen.lines.length;
    await server.kill();
    server.wipe();
    await server.start();
    await until('the entries are there again', async () => (await server.ctl('get', '--prefix', '--keys-only', `${namespace}entries/`)).split('\n').filter(Boolean).length === 50);
    await until('nothing is held', () => connected(reader)() && factsOf(reader).get('held_removals') === 0);
    await sleep(2000); // longer than the grace
    expect(seen.lines.slice(before)).toEqual([]);
    expect(factsOf(owner).get('lease_losses_total')).toBeGreaterThan(0);
    expect(factsOf(owner).get('reregistrations_total')).toBe(50);
    expect(factsOf(reader).get('watch_restarts_total snapshot')).toBeGreaterThan(0);
  });

  it('without the grace the same wipe shows every entry as removed (what the grace is for)', async () => {
    const owner = await client({ restoreJitterMs: 0, reconnectMinMs: 1000, reconnectMaxMs: 3000 });
    const reader = await client({ graceMs: 0, reconnectMinMs: 10, reconnectMaxMs: 20 });
    const seen = new Recorder();
    await reader.watch('w/', seen);
    await owner.register('w/a', 1);
    await until('the entry', () => seen.entries.size === 1);
    await server.kill();
    server.wipe();
    await until('several tries of the owner have failed', () => lost(owner)());
    await sleep(1500);
    await server.start();
    await until('removed and put again', () => seen.lines.length >= 4);
    expect(seen.lines).toEqual(['synced', 'put w/a 1', 'removed w/a', 'put w/a 1']);
  });

  it('an owner that died during the outage is removed when the grace is over', async () => {
    const { owner, reader, seen } = await pair();
    const other = await client();
    await owner.register('w/dies', 1);
    await other.register('w/lives', 2);
    await until('both', () => seen.entries.size === 2);
    await server.kill();
    server.wipe();
    await owner.close();
    await server.start();
    await until('held', () => factsOf(reader).get('held_removals') > 0);
    expect(seen.entries.size).toBe(2);
    await until('removed', () => !seen.entries.has('w/dies'));
    expect(seen.lines.filter((line) => line.startsWith('removed'))).toEqual(['removed w/dies']);
  });

  it('SIGSTOP longer than the time to live: entries stay known, are registered again, changes go on', async () => {
    const { owner, reader, seen } = await pair({ requestTimeoutMs: 500 });
    const registration = await owner.register('w/a', 1, { ttlMs: 2000 });
    await until('the entry', () => seen.entries.size === 1);
    server.freeze();
    await until('the hung server is noticed', () => lost(reader)() && lost(owner)());
    await sleep(4000);
    expect(seen.entries.size).toBe(1);
    server.thaw();
    await until('both are back', () => connected(reader)() && connected(owner)());
    await registration.update(2);
    await until('the update', () => seen.entries.get('w/a') === 2);
    expect(seen.lines.filter((line) => line.startsWith('removed'))).toEqual([]);
  });

  it('compaction during a disconnect: a new snapshot, compared with what is known', async () => {
    const { owner, reader, seen } = await pair({ graceMs: 300 });
    const a = await owner.register('w/a', 1);
    await owner.register('w/b', 1);
    await until('both', () => seen.entries.size === 2);
    // The reader alone cannot reach etcd: it is asked for another port, by a proxy that is cut.
    const proxy = await Proxy.make(server.endpoint);
    const far = await client({ endpoints: [proxy.endpoint], graceMs: 300 });
    const late = new Recorder();
    await far.watch('w/', late);
    proxy.cut();
    await until('the reader is cut off', lost(far));
    await a.close();
    await owner.register('w/c', 3);
    const found = JSON.parse(await server.ctl('get', '--write-out=json', `${namespace}cluster`)) as { header: { revision: number } };
    await server.ctl('compact', String(found.header.revision));
    proxy.mend();
    await until('the difference', () => late.state() === seen.state() && late.entries.size === 2);
    expect(late.lines.slice(-2).sort()).toEqual(['put w/c 3', 'removed w/a']);
    expect(factsOf(far).get('watch_restarts_total snapshot')).toBeGreaterThan(0);
    expect(factsOf(reader).get('watch_restarts_total snapshot')).toBe(0);
    proxy.close();
  });

  it('no gap: 3,000 changes during a disconnect arrive in order, also when it is cut again while catching up', async () => {
    const proxy = await Proxy.make(server.endpoint);
    const owner = await client();
    const far = await client({ endpoints: [proxy.endpoint] });
    const seen = new Recorder();
    await far.watch('w/', seen);
    const registration = await owner.register('w/a', 0);
    await until('the entry', () => seen.entries.size === 1);
    proxy.cut();
    await until('cut off', lost(far));
    for (let i = 1; i <= 3000; i++) await registration.update(i);
    proxy.mend();
    await until('catching up', () => seen.lines.length > 2);
    proxy.cut();
    await sleep(200);
    proxy.mend();
    await until('all of them', () => seen.entries.get('w/a') === 3000);
    expect(seen.lines).toEqual(['synced', ...Array.from({ length: 3001 }, (_, i) => `put w/a ${i}`)]);
    proxy.close();
  });

  it('a lease that was revoked by hand: everything under it is registered again under a new one', async () => {
    const { owner, seen } = await pair();
    const many = await Promise.all(Array.from({ length: 200 }, (_, i) => owner.register(`w/${i}`, i, { ttlMs: 3000 })));
    await until('all', () => seen.entries.size === 200);
    expect(many).toHaveLength(200);
    expect(await leases()).toBe(1); // one for 200 registrations
    const id = /found \d+ leases\n(\w+)/.exec(await server.ctl('lease', 'list'))?.[1] as string;
    await server.ctl('lease', 'revoke', id);
    await until('registered again', () =>  factsOf(owner).get('reregistrations_total') === 200);
    await until('all again', () => seen.entries.size === 200);
    expect(factsOf(owner).get('lease_losses_total')).toBe(1);
  });

  it('a dead owner is removed when its lease ends, and its key can be taken then', async () => {
    const { owner, reader, seen } = await pair();
    const proxy = await Proxy.make(server.endpoint);
    const dying = await client({ endpoints: [proxy.endpoint] });
    await dying.register('w/a', 'old', { ttlMs: 2000 });
    await until('the entry', () => seen.entries.size === 1);
    await expect(owner.register('w/a', 'new')).rejects.toMatchObject({ code: 'DISCOVERY_KEY_TAKEN' });
    proxy.cut();
    await until('removed', () => seen.entries.size === 0);
    await owner.register('w/a', 'new');
    await until('the new one', () => seen.entries.get('w/a') === 'new');
    proxy.mend(); // the old owner comes back and finds its key taken: it must not write over it
    await until('it is reported', () => factsOf(dying).health.get('discovery-registrations') === 'degraded');
    expect(seen.entries.get('w/a')).toBe('new');
    expect(factsOf(reader).get('entries')).toBe(1);
    proxy.close();
  });

  it('close during an outage ends within its deadline, and the entry goes when etcd is back', async () => {
    const { owner, seen } = await pair({ operationTimeoutMs: 500, graceMs: 0 });
    const registration = await owner.register('w/a', 1, { ttlMs: 60_000 });
    await until('the entry', () => seen.entries.size === 1);
    await server.kill();
    await registration.close();
    await expect(owner.register('w/b', 1)).rejects.toMatchObject({ code: 'DISCOVERY_UNREACHABLE', retryable: true });
    await server.start();
    await until('removed', () => seen.entries.size === 0);
    expect(await server.ctl('get', '--prefix', '--keys-only', `${namespace}entries/`)).toBe('');
  });

  it('random registrations, updates, closes and restarts: in the end every watcher has what is registered', async () => {
    const seed = Number(process.env['ARMATURE_SEED'] ?? Date.now() % 1_000_000);
    console.log(`seed ${seed}`);
    const random = seededRandom(seed);
    const owners = [await client(), await client(), await client()];
    const reader = await client();
    const seen = new Recorder();
    await reader.watch('w/', seen);
    const model = new Map<string, number>();
    const held = new Map<string, Registration>();
    for (let step = 0; step < 400; step++) {
      const key = `w/${random.below(12)}`;
      const registration = held.get(key);
      if (step % 80 === 79) {
        await server.kill();
        if (random.below(2) === 0) server.wipe();
        await server.start();
      } else if (registration === undefined) {
        held.set(key, await (owners[random.below(3)] as EtcdDiscovery).register(key, step));
        model.set(key, step);
      } else if (random.below(3) === 0) {
        await registration.close();
        held.delete(key);
        model.delete(key);
      } else {
        await registration.update(step);
        model.set(key, step);
      }
    }
    const expected = JSON.stringify([...model].sort(([a], [b]) => (a < b ? -1 : 1)));
    await until(`seed ${seed}: ${expected}`, () => seen.state() === expected).catch((error: unknown) => expect(seen.state(), String(error)).toBe(expected));
    const late = new Recorder();
    await reader.watch('w/', late);
    await until('a late watcher too', () => late.state() === expected);
    const restarts = ['reconnects_total', 'watch_restarts_total revision', 'watch_restarts_total snapshot'].map((name) => factsOf(reader).get(name));
    expect(restarts.reduce((a, b) => a + b)).toBeGreaterThanOrEqual(5);
    expect(factsOf(reader).get('entries')).toBe(2 * model.size);
  });

  it('several endpoints: one that is dead does not matter, and a failed one is left', async () => {
    const proxy = await Proxy.make(server.endpoint);
    const owner = await client({ endpoints: ['http://127.0.0.1:1', proxy.endpoint, server.endpoint] });
    const registration = await owner.register('w/a', 1);
    proxy.close();
    await registration.update(2);
    const seen = new Recorder();
    await (await client()).watch('w/', seen);
    expect(seen.lines).toEqual(['put w/a 2', 'synced']);
  });
});
