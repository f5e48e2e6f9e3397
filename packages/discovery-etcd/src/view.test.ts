import { describe, expect, it } from 'vitest';
import { deserialize, serialize } from 'node:v8';
import type { Codec, PlainData } from '@armature/contracts';
import { pack } from './envelope.ts';
import { Facts, Recorder, seededRandom } from './fixtures.test.support.ts';
import { KeySpace, namespaceOf, prefixEnd } from './keys.ts';
import { DiscoveryGauges } from './metrics.ts';
import { etcdDiscovery } from './plugin.ts';
import type { EtcdDiscoveryConfig } from './options.ts';
import { DEFAULTS } from './fixtures.test.support.ts';
import { WatchView } from './view.ts';

const codec: Codec = { encode: (value) => serialize(value), decode: (bytes) => deserialize(bytes) as PlainData };

function view(): { readonly seen: Recorder; readonly facts: Facts; readonly view: WatchView; put(key: string, id: string, value: number): void } {
  const facts = new Facts();
  const seen = new Recorder();
  const under = new WatchView(seen, { codec, log: facts.log, gauges: new DiscoveryGauges(facts) });
  return { seen, facts, view: under, put: (key, id, value) => under.put({ key, bytes: pack(codec, key, { id, value }, 1000) }) };
}

describe('what a watcher is told', () => {
  it('nothing, when an owner writes the same again within the grace', () => {
    const it = view();
    it.put('a', 'p/1', 1);
    it.view.removed('a', true);
    expect(it.facts.get('held_removals')).toBe(1);
    it.put('a', 'p/1', 1);
    it.view.releaseHeld();
    expect(it.seen.lines).toEqual(['put a 1']);
    expect(it.facts.get('held_removals')).toBe(0);
  });

  it('removed and put, when another registration holds the key', () => {
    const it = view();
    it.put('a', 'p/1', 1);
    it.view.removed('a', true);
    it.put('a', 'p/2', 1);
    expect(it.seen.lines).toEqual(['put a 1', 'removed a', 'put a 1']);
  });

  it('removed, when the grace is over', () => {
    const it = view();
    it.put('a', 'p/1', 1);
    it.view.replace([], true);
    expect(it.seen.lines).toEqual(['put a 1']);
    it.view.releaseHeld();
    expect(it.seen.lines).toEqual(['put a 1', 'removed a']);
  });

  it('in the end what is there, whatever happened (random)', () => {
    for (let seed = 1; seed <= 200; seed++) {
      const random = seededRandom(seed);
      const it = view();
      const model = new Map<string, number>();
      const ids = new Map<string, string>();
      for (let step = 0; step < 100; step++) {
        const key = `k${random.below(5)}`;
        const isHeld = random.below(2) === 0;
        if (random.below(3) > 0) {
          if (!model.has(key) || random.below(4) === 0) ids.set(key, `p/${step}`);
          model.set(key, step);
          it.put(key, ids.get(key) as string, step);
        } else {
          model.delete(key);
          it.view.removed(key, isHeld);
        }
        if (random.below(10) === 0) it.view.releaseHeld();
      }
      it.view.releaseHeld();
      expect(it.seen.state(), `seed ${seed}`).toBe(JSON.stringify([...model].sort(([a], [b]) => (a < b ? -1 : 1))));
      expect(it.facts.get('entries'), `seed ${seed}`).toBe(model.size);
      it.view.close();
      expect(it.facts.get('entries'), `seed ${seed}`).toBe(0);
    }
  });
});

describe('keys', () => {
  it('the end of a prefix is the first key behind it', () => {
    expect(prefixEnd(Buffer.from('a/'))).toEqual(Buffer.from('a0'));
    expect(prefixEnd(Buffer.of(0x61, 0xff, 0xff))).toEqual(Buffer.of(0x62));
  });
  it('come back as they were, below the namespace', () => {
    const keys = new KeySpace(namespaceOf('', 'red'));
    expect(keys.cluster.toString()).toBe('/armature/red/cluster');
    expect(keys.keyOf(keys.entry('workers/grüße/🦙'))).toBe('workers/grüße/🦙');
    expect(namespaceOf('/x', 'red')).toBe('/x/');
  });
});

describe('configuration', () => {
  const problems = (config: Partial<EtcdDiscoveryConfig>): string[] => {
    const found: string[] = [];
    etcdDiscovery.check?.({ ...DEFAULTS, endpoints: ['https://a:1'], ...config }, ({ path }) => void found.push(path.join('.')));
    return found;
  };
  const tls = DEFAULTS.tls;
  it.each([
    [{}, []],
    [{ endpoints: ['https://a:1', 'http://b:1'] }, ['endpoints']],
    [{ endpoints: ['http://a:1'], tls: { ...tls, caFile: 'ca.pem' } }, ['tls']],
    [{ tls: { ...tls, certFile: 'c.pem' } }, ['tls']],
    [{ password: 'x' }, ['username']],
    [{ reconnectMaxMs: 1, reconnectMinMs: 2 }, ['reconnectMaxMs']],
  ])('%j → %j', (config, expected) => {
    expect(problems(config)).toEqual(expected);
  });
  it('masks the password', () => {
    expect((etcdDiscovery.configSchema as { properties: { password: object } }).properties.password).toMatchObject({ 'x-secret': true });
  });
});
