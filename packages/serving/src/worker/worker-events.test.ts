import type { EngineBackend, KvEvent } from '@armature/contracts';
import type { BlockManager, KvTierEvent } from '@armature/kvbm';
import { describe, expect, it } from 'vitest';
import { WorkerEvents } from './worker-events.ts';

/** An engine and a manager that say what they are told to, and remember what they hold. */
function build(options: { manager?: boolean } = {}) {
  const published: KvEvent[] = [];
  const device = new Set<number>();
  const lower = new Map<'host' | 'disk', Set<number>>([['host', new Set()], ['disk', new Set()]]);
  const heard: KvEvent[] = [];
  let say: (event: KvEvent) => void = () => undefined;
  let sayTier: (event: KvTierEvent) => void = () => undefined;
  let lastId = 0;
  const stored = (blocks: Iterable<number>) => ({ type: 'stored', parent: new Int32Array(0), sequenceHashes: hashes(blocks) }) as const;
  const engine = {
    onKvEvent: (listener: (event: KvEvent) => void) => void (say = listener),
    snapshot: (): KvEvent[] => (device.size > 0 ? [{ ...stored(device), eventId: lastId, tier: 'device' }] : lastId === 0 ? [] : [{ type: 'cleared', eventId: lastId }]),
  } as unknown as EngineBackend;
  const manager = {
    onTierEvent: (listener: (event: KvTierEvent) => void) => void (sayTier = listener),
    engineEvent: (event: KvEvent) => void heard.push(event),
    snapshot: (): KvTierEvent[] => [...lower].flatMap(([tier, blocks]) => (blocks.size > 0 ? [{ ...stored(blocks), tier }] : [])),
  } as unknown as BlockManager;
  const events = new WorkerEvents({ engine, publish: (event) => void published.push(event) });
  const attach = (): void => events.attach(manager);
  if (options.manager !== false) attach();
  return {
    events,
    published,
    heard,
    attach,
    lower,
    device,
    emit: (event: { type: 'stored' | 'removed'; blocks: number[]; cacheSalt?: string } | { type: 'cleared' }, skip = 0): number => {
      lastId += 1 + skip;
      if (event.type === 'cleared') {
        device.clear();
        say({ type: 'cleared', eventId: lastId });
      } else if (event.type === 'stored') {
        event.blocks.forEach((block) => device.add(block));
        say({ ...stored(event.blocks), eventId: lastId, tier: 'device', ...(event.cacheSalt === undefined ? {} : { cacheSalt: event.cacheSalt }) });
      } else {
        event.blocks.forEach((block) => device.delete(block));
        say({ type: 'removed', eventId: lastId, sequenceHashes: hashes(event.blocks), tier: 'device' });
      }
      return lastId;
    },
    emitTier: (type: 'stored' | 'removed', tier: 'host' | 'disk', blocks: number[]): void => {
      blocks.forEach((block) => lower.get(tier)?.[type === 'stored' ? 'add' : 'delete'](block));
      sayTier(type === 'stored' ? { ...stored(blocks), tier } : { type, sequenceHashes: hashes(blocks), tier });
    },
  };
}

const hashes = (blocks: Iterable<number>): Int32Array => Int32Array.from([...blocks].flatMap((block) => [block, -block]));

/** What a follower holds: `tier block`. */
function replay(events: readonly KvEvent[], held = new Set<string>()): Set<string> {
  for (const event of events) {
    if (event.type === 'cleared') [...held].filter((entry) => entry.startsWith(event.tier ?? '')).forEach((entry) => held.delete(entry));
    else for (let i = 0; i < event.sequenceHashes.length; i += 2) held[event.type === 'stored' ? 'add' : 'delete'](`${event.tier} ${event.sequenceHashes[i]}`);
  }
  return held;
}

const ids = (events: readonly KvEvent[]): number[] => events.map(({ eventId }) => eventId);

describe('events of a worker', () => {
  it('are those of its engine as long as there are no tiers below it, without the tenant', () => {
    const t = build({ manager: false });
    t.emit({ type: 'stored', blocks: [1], cacheSalt: 'secret' });
    t.emit({ type: 'removed', blocks: [1] });
    t.emit({ type: 'cleared' });
    expect(t.published).toEqual([
      { type: 'stored', eventId: 1, parent: new Int32Array(0), sequenceHashes: Int32Array.of(1, -1), tier: 'device' },
      { type: 'removed', eventId: 2, sequenceHashes: Int32Array.of(1, -1), tier: 'device' },
      { type: 'cleared', eventId: 3 },
    ]);
    expect(JSON.stringify([t.published, t.events.snapshot(), t.events.history.slice(1, 3)])).not.toContain('secret');
    expect([t.events.idOf(2), t.events.snapshot()]).toEqual([2, [{ type: 'cleared', eventId: 3 }]]);
  });

  it('of engine and tiers are one sequence; the manager hears the tenant, others do not', () => {
    const t = build();
    const first = t.emit({ type: 'stored', blocks: [1, 2], cacheSalt: 'secret' });
    t.emitTier('stored', 'host', [1, 2]);
    const second = t.emit({ type: 'stored', blocks: [3] });
    t.emitTier('stored', 'disk', [1]);
    const third = t.emit({ type: 'cleared' });
    expect(ids(t.published)).toEqual([2, 3, 4, 5, 6]); // 1: what the tiers held before
    expect([first, second, third].map((id) => t.events.idOf(id))).toEqual([2, 4, 6]);
    expect([t.events.idOf(0), t.events.lastEventId]).toEqual([0, 6]);
    expect(t.published[4]).toEqual({ type: 'cleared', eventId: 6, tier: 'device' });
    expect(replay(t.published)).toEqual(new Set(['host 1', 'host 2', 'disk 1']));
    expect(t.heard[0]).toMatchObject({ type: 'stored', cacheSalt: 'secret' });
    expect(JSON.stringify(t.published)).not.toContain('secret');
  });

  it.each([false, true])('begin again with another life, whose snapshot has all that is held (tiers: %s)', (manager) => {
    const t = build({ manager });
    for (let block = 1; block <= 5; block++) t.emit({ type: 'stored', blocks: [block] });
    if (manager) t.emitTier('stored', 'host', [1]);
    const lastOfOldLife = t.emit({ type: 'removed', blocks: [5] });
    t.published.length = 0;
    t.events.restart();
    const held = replay(t.events.snapshot());
    expect(held).toEqual(new Set([...[1, 2, 3, 4].map((block) => `device ${block}`), ...(manager ? ['host 1'] : [])]));
    expect([t.events.lastEventId, t.events.snapshot().at(-1)?.eventId, t.events.idOf(lastOfOldLife), t.events.history.slice(1, 1)]).toEqual([1, 1, 1, undefined]);
    const next = t.emit({ type: 'stored', blocks: [6] });
    expect([ids(t.published), t.events.idOf(next), ids(t.events.history.slice(2, 2) ?? [])]).toEqual([[2], 2, [2]]);
    expect(replay(t.published, held)).toEqual(replay(t.events.snapshot())); // who followed, and who comes now
    expect(t.events.snapshot().at(-1)?.eventId).toBe(2);
  });

  it('what the engine held before the manager came is told to it', () => {
    const t = build({ manager: false });
    t.emit({ type: 'stored', blocks: [7] });
    t.attach();
    t.emit({ type: 'stored', blocks: [8] });
    expect(t.heard.map((event) => event.type === 'stored' && event.sequenceHashes[0])).toEqual([7, 8]);
    expect(ids(t.published)).toEqual([1, 2]);
  });

  it('what tiers hold from an earlier life is in the snapshot, and the next event follows it', () => {
    const t = build({ manager: false });
    t.lower.get('disk')?.add(3);
    t.attach();
    const snapshot = t.events.snapshot();
    expect([ids(snapshot), replay(snapshot)]).toEqual([[1], new Set(['disk 3'])]);
    t.emit({ type: 'stored', blocks: [1] });
    expect([ids(t.published), t.events.history.slice(1, 2)]).toEqual([[2], undefined]); // the earlier life cannot be replayed: who lacks it gets the whole state
  });

  it('an id that the engine skipped is missing here too', () => {
    const t = build();
    t.emit({ type: 'stored', blocks: [1] });
    t.emitTier('stored', 'host', [1]);
    t.emit({ type: 'stored', blocks: [2] }, 1);
    expect(ids(t.published)).toEqual([2, 3, 5]);
  });
});

for (const seed of [1, 2, 3, 4]) {
  it(`snapshot and events tell the same at any time (seed ${seed})`, () => {
    const t = build();
    let state = seed;
    const below = (n: number): number => ((state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0) >>> 8) % n;
    const merged: number[] = [];
    const count = { engine: 0, tier: 0, cleared: 0, replayed: 0 };
    for (let step = 0; step < 3_000; step++) {
      const blocks = Array.from({ length: 1 + below(4) }, () => 1 + below(60));
      const kind = below(100);
      if (kind < 40) merged[t.emit({ type: kind < 22 ? 'stored' : 'removed', blocks })] = t.events.lastEventId;
      else if (kind < 99) t.emitTier(kind < 72 ? 'stored' : 'removed', below(2) === 0 ? 'host' : 'disk', blocks);
      else merged[t.emit({ type: 'cleared' })] = t.events.lastEventId;
      count[kind < 40 ? 'engine' : kind < 99 ? 'tier' : 'cleared']++;
      if (step % 50 !== 0) continue;
      const snapshot = t.events.snapshot();
      expect(snapshot.at(-1)?.eventId ?? 0).toBe(t.events.lastEventId);
      expect(snapshot.every(({ eventId }) => eventId >= 1)).toBe(true);
      const truth = new Set([...[...t.device].map((block) => `device ${block}`), ...[...t.lower].flatMap(([tier, held]) => [...held].map((block) => `${tier} ${block}`))]);
      expect(replay(snapshot)).toEqual(truth);
      expect(replay(t.published)).toEqual(truth);
      // A follower that has what was published up to `from` gets the rest from the worker's buffer.
      const from = 2 + below(t.published.length);
      const rest = t.events.history.slice(from, t.events.lastEventId) ?? [];
      expect(replay(rest, replay(t.published.slice(0, from - 2)))).toEqual(truth);
      count.replayed += rest.length;
    }
    expect(ids(t.published)).toEqual(t.published.map((_, i) => i + 2));
    merged.forEach((id, engineId) => expect(t.events.idOf(engineId)).toBe(id));
    process.stdout.write(`worker-events seed ${seed}: ${JSON.stringify(count)}\n`);
    expect(Math.min(...Object.values(count))).toBeGreaterThan(5);
  });
}
