import { ArmatureError } from '@armature/contracts';
import { childTraceparent, newTraceparent, parseTraceparent } from '@armature/contracts';
import type { PlainData } from '@armature/contracts';
import { describe, expect, it } from 'vitest';
import { AdminRouteTable } from './admin-routes.ts';
import { HealthRegistry } from './health.ts';
import { PinoLogger, prettyLine } from './logger.ts';
import { PrometheusMetrics } from './metrics.ts';
import { MsgpackCodec } from './msgpack-codec.ts';
import { SeededRandom } from './seeded-random.ts';
import { SystemClock } from './system-clock.ts';
import { VirtualClock } from './virtual-clock.ts';

describe('SystemClock', () => {
  it('keeps order of timers and defers, sleeps, and sleeps no longer than asked', async () => {
    const clock = new SystemClock();
    const seen: string[] = [];
    const cleared = clock.setTimer(1, () => void seen.push('cleared'));
    clock.clearTimer(cleared);
    clock.setTimer(5, () => void seen.push('timer'));
    clock.defer(() => void seen.push('deferred'));
    await clock.sleep(20);
    expect(seen).toEqual(['deferred', 'timer']);
    const abort = new AbortController();
    const sleeping = clock.sleep(60_000, abort.signal);
    abort.abort(new Error('enough'));
    await expect(sleeping).rejects.toThrow('enough');
    await expect(clock.sleep(1, abort.signal)).rejects.toThrow('enough');
  });
});

describe('VirtualClock', () => {
  it.each([1, 2, 3, 4, 5])('runs timers by due time, then by registration (seed %i)', async (seed) => {
    const random = new SeededRandom(seed);
    const clock = new VirtualClock();
    const expected: { readonly due: number; readonly order: number }[] = [];
    const seen: number[] = [];
    let order = 0;
    const add = (depth: number): void => {
      const due = clock.nowMs() + random.below(40) / 2;
      const id = order++;
      const timer = clock.setTimer(due - clock.nowMs(), () => {
        expect(clock.nowMs()).toBe(due);
        seen.push(id);
        if (depth < 3) for (let i = random.below(3); i > 0; i--) add(depth + 1);
      });
      if (random.below(5) === 0) clock.clearTimer(timer);
      else expected.push({ due, order: id });
    };
    for (let i = 0; i < 300; i++) add(0);
    const events = await clock.runUntilIdle();
    const wanted = expected.toSorted((a, b) => a.due - b.due || a.order - b.order).map((entry) => entry.order);
    expect(seen, `seed ${seed}`).toEqual(wanted);
    expect(events).toBe(wanted.length);
    expect(clock.pendingTimers).toBe(0);
  });

  it.each([false, true])('runs promise reactions of a callback, however deep, before the next callback (a turn each: %s)', async (turnPerCallback) => {
    const clock = new VirtualClock({ turnPerCallback });
    const seen: string[] = [];
    const deep = async (levels: number): Promise<void> => {
      for (let i = 0; i < levels; i++) await undefined;
      await Promise.resolve().then(() => Promise.resolve());
      process.nextTick(() => void Promise.resolve().then(() => void seen.push('reaction')));
    };
    clock.setTimer(1, () => {
      seen.push('one');
      void deep(20);
    });
    clock.setTimer(1, () => void seen.push('two'));
    await clock.runUntilIdle();
    expect(seen).toEqual(['one', 'reaction', 'two']);
  });

  it('runs deferred callbacks before any timer, and sleepers in order', async () => {
    const clock = new VirtualClock({ startMs: 100, epochMs: 1000 });
    const seen: string[] = [];
    clock.setTimer(0, () => void seen.push('timer'));
    clock.defer(() => {
      seen.push('deferred');
      clock.defer(() => void seen.push('deferred by it'));
    });
    const worker = async (name: string, ms: number): Promise<void> => {
      for (let i = 0; i < 2; i++) {
        await clock.sleep(ms);
        seen.push(`${name} ${clock.nowMs()}`);
      }
    };
    const all = Promise.all([worker('a', 10), worker('b', 10), worker('c', 15)]);
    await clock.runUntilIdle();
    await all;
    expect(seen).toEqual(['deferred', 'deferred by it', 'timer', 'a 110', 'b 110', 'c 115', 'a 120', 'b 120', 'c 130']);
    expect(clock.wallMs()).toBe(1030);
  });

  it('stops where it is told, and says so when it never would', async () => {
    const clock = new VirtualClock();
    let ticks = 0;
    const tick = (): void => {
      ticks++;
      clock.setTimer(10, tick);
    };
    tick();
    await clock.runUntilIdle({ untilMs: 95 });
    expect([ticks, clock.nowMs()]).toEqual([10, 90]);
    await clock.advance(25);
    expect([ticks, clock.nowMs()]).toEqual([12, 115]);
    await expect(clock.runUntilIdle({ maxEvents: 1000 })).rejects.toMatchObject({ code: 'CLOCK_RUNAWAY' });
  });

  it('refuses two runs at once, and gives back what a callback throws', async () => {
    const clock = new VirtualClock();
    clock.setTimer(1, () => {
      throw new Error('from the callback');
    });
    const first = clock.runUntilIdle();
    await expect(clock.runUntilIdle()).rejects.toMatchObject({ code: 'CLOCK_BUSY' });
    await expect(first).rejects.toThrow('from the callback');
    expect(await clock.runUntilIdle()).toBe(0);
  });

  it('background timers do not make time pass, and fire when it does', async () => {
    const clock = new VirtualClock();
    const seen: string[] = [];
    clock.setBackgroundTimer(50, () => void seen.push('watchdog'));
    await clock.runUntilIdle();
    expect(clock.nowMs()).toBe(0);
    clock.setTimer(100, () => void seen.push('timer'));
    await clock.runUntilIdle();
    expect(seen).toEqual(['watchdog', 'timer']);
  });

  it('drives a promise to its end, and says when nothing will settle it', async () => {
    const clock = new VirtualClock();
    const realWorld = new Promise((resolve) => void setTimeout(resolve, 5));
    const value = await clock.runUntilSettled(clock.sleep(1000).then(() => realWorld).then(() => clock.sleep(500)).then(() => 'done'));
    expect([value, clock.nowMs()]).toEqual(['done', 1500]);
    await expect(clock.runUntilSettled(new Promise(() => undefined), { realTimeoutMs: 5 })).rejects.toMatchObject({ code: 'CLOCK_STUCK' });
  });

  it('does not keep cleared timers', async () => {
    const clock = new VirtualClock();
    for (let i = 0; i < 10_000; i++) clock.clearTimer(clock.setTimer(1e9, () => undefined));
    clock.setTimer(1, () => undefined);
    expect(await clock.runUntilIdle()).toBe(1);
    expect(clock.nowMs()).toBe(1);
  });
});

describe('SeededRandom', () => {
  it('repeats itself by seed, and forks independently without advancing', () => {
    const draws = (random: SeededRandom): number[] => Array.from({ length: 5 }, () => random.u32());
    expect(draws(new SeededRandom(7))).toEqual(draws(new SeededRandom(7)));
    expect(draws(new SeededRandom(7))).not.toEqual(draws(new SeededRandom(8)));
    const random = new SeededRandom(7);
    const fork = draws(random.fork('a'));
    expect(draws(random)).toEqual(draws(new SeededRandom(7)));
    expect(draws(random.fork('a'))).toEqual(fork);
    expect(draws(random.fork('b'))).not.toEqual(fork);
  });

  it('is uniform enough: every value of a small range within 5 sigma, mean near a half', () => {
    const random = new SeededRandom('uniform');
    const counts = Array.from({ length: 10 }, () => 0);
    let sum = 0;
    for (let i = 0; i < 100_000; i++) {
      counts[random.below(10)]++;
      sum += random.next();
    }
    for (const count of counts) expect(Math.abs(count - 10_000)).toBeLessThan(5 * Math.sqrt(9000));
    expect(Math.abs(sum / 100_000 - 0.5)).toBeLessThan(0.005);
    expect([random.below(0), random.below(1)]).toEqual([0, 0]);
  });
});

describe('MsgpackCodec', () => {
  const codec = new MsgpackCodec();

  it('brings plain data back, in memory of its own', () => {
    const value = { a: [1, -1, 2 ** 40, 1.5, null, true, 'ü'], b: 10n, u: undefined, i: Int32Array.of(1, -2), d: Float64Array.of(1.5), w: BigUint64Array.of(2n ** 64n - 1n), y: Uint8Array.of(1, 2) };
    const bytes = codec.encode(value);
    const padded = new Uint8Array(bytes.length + 3);
    padded.set(bytes, 3); // unaligned
    const back = codec.decode(padded.subarray(3)) as typeof value;
    expect(back).toStrictEqual(value);
    padded.fill(0);
    expect(back).toStrictEqual(value);
    expect(back.d.byteOffset % 8).toBe(0);
  });

  it('encodes into bytes that later calls do not touch', () => {
    const first = codec.encode({ n: Int32Array.of(1, 2, 3) });
    const copy = first.slice();
    for (let i = 0; i < 2000; i++) codec.encode({ i, text: 'x'.repeat(i % 50) });
    expect(first).toEqual(copy);
  });

  it.each([
    ['a function', () => undefined],
    ['a map', new Map()],
    ['a date', new Date(0)],
    ['a class instance', new SeededRandom(1)],
    ['a symbol', Symbol('x')],
    ['a large bigint', 2n ** 64n],
    ['an int8 array', new Int8Array(1)],
    ['an own __proto__', JSON.parse('{"__proto__": 1}')],
    ['a cycle', (() => {
      const loop: unknown[] = [];
      loop.push(loop);
      return loop;
    })()],
  ])('refuses %s', (_name, value) => {
    expect(() => codec.encode({ inner: [value as PlainData] })).toThrow(expect.objectContaining({ code: 'CODEC_NOT_PLAIN' }));
  });

  it.each([
    ['nothing', []],
    ['an array that claims four billion elements', [0xdd, 0xff, 0xff, 0xff, 0xff, 1]],
    ['a map that claims four billion entries', [0xdf, 0xff, 0xff, 0xff, 0xff, 0xa1, 0x61, 1]],
    ['text longer than the message', [0xdb, 0x7f, 0xff, 0xff, 0xff, 0x61]],
    ['a typed array longer than the message', [0xc9, 0xff, 0xff, 0xff, 0xff, 0x74, 5]],
    ['a typed array of half elements', [0xc7, 4, 0x74, 5, 1, 2, 3]],
    ['a typed array of unknown type', [0xc7, 2, 0x74, 99, 1]],
    ['an error object', [0xc7, 4, 0x65, 0x93, 0xa1, 0x61, 0xc0]],
    ['a record definition', [0xd4, 0x72, 0x40, 0x91, 0xa1, 0x61, 1]],
    ['a timestamp', [0xd6, 0xff, 0, 0, 0, 0]],
    ['two values', [1, 2]],
    ['a reserved byte', [0xc1]],
    ['a key that is a number', [0x81, 1, 1]],
    ['a prototype key', [0x81, 0xa9, ...Buffer.from('__proto__'), 0x80]],
    ['endless nesting', Array.from({ length: 5000 }, () => 0x91)],
  ])('refuses %s', (_name, bytes) => {
    expect(() => codec.decode(Uint8Array.from(bytes))).toThrow(expect.objectContaining({ code: 'CODEC_INVALID' }));
  });

  it('ends every random or damaged message with data or CODEC_INVALID (seed 3)', () => {
    const random = new SeededRandom(3);
    const good = codec.encode({ list: [1, 'two', { x: Float64Array.of(1, 2), y: 3n }], text: 'x'.repeat(40), w: new BigUint64Array(4) });
    let invalid = 0;
    for (let round = 0; round < 20_000; round++) {
      const bytes = round % 2 === 0 ? Uint8Array.from({ length: random.below(40) }, () => random.below(256)) : good.slice(0, good.length - random.below(3));
      if (round % 2 === 1) for (let i = random.below(4); i >= 0; i--) bytes[random.below(bytes.length)] = random.below(256);
      try {
        codec.encode(codec.decode(bytes));
      } catch (error) {
        if (!ArmatureError.is(error) || (error.code !== 'CODEC_INVALID' && error.code !== 'CODEC_NOT_PLAIN')) throw new Error(`seed 3, round ${round}: ${String(error)}`, { cause: error });
        invalid++;
      }
    }
    expect(invalid).toBeGreaterThan(1000);
  });
});

describe('PrometheusMetrics', () => {
  it('writes counters, gauges and histograms as text', async () => {
    const metrics = new PrometheusMetrics({ defaultMetrics: false });
    metrics.counter({ name: 'armature_requests_total', help: 'Requests.', labelNames: ['model'] }).with('demo').inc();
    metrics.counter({ name: 'armature_requests_total', help: 'Requests.', labelNames: ['model'] }).with('demo').inc(2);
    const gauge = metrics.gauge({ name: 'armature_workers', help: 'Workers.' }).with();
    const stop = metrics.onCollect(() => gauge.set(5));
    const histogram = metrics.histogram({ name: 'armature_wait_seconds', help: 'Wait.', buckets: [0.1, 1] }).with();
    for (const value of [0.05, 0.1, 0.5, 3]) histogram.observe(value);
    expect(await metrics.text()).toBe(`# HELP armature_requests_total Requests.
# TYPE armature_requests_total counter
armature_requests_total{model="demo"} 3

# HELP armature_workers Workers.
# TYPE armature_workers gauge
armature_workers 5

# HELP armature_wait_seconds Wait.
# TYPE armature_wait_seconds histogram
armature_wait_seconds_bucket{le="0.1"} 2
armature_wait_seconds_bucket{le="1"} 3
armature_wait_seconds_bucket{le="+Inf"} 4
armature_wait_seconds_sum 3.65
armature_wait_seconds_count 4
`);
    stop();
    gauge.set(1);
    expect(await metrics.text()).toContain('armature_workers 1');
  });

  it('refuses one name with two shapes, wrong labels and wrong names; has process metrics', async () => {
    const metrics = new PrometheusMetrics();
    metrics.counter({ name: 'a_total', help: '' });
    expect(() => metrics.gauge({ name: 'a_total', help: '' })).toThrow(expect.objectContaining({ code: 'METRIC_CONFLICT' }));
    expect(() => metrics.counter({ name: 'a_total', help: '' }).with('x')).toThrow(expect.objectContaining({ code: 'METRIC_LABELS_INVALID' }));
    expect(() => metrics.counter({ name: 'a-b', help: '' })).toThrow(expect.objectContaining({ code: 'METRIC_NAME_INVALID' }));
    expect(await metrics.text()).toContain('process_cpu_seconds_total');
  });
});

describe('HealthRegistry', () => {
  it('is as bad as its worst part', () => {
    const health = new HealthRegistry();
    expect(health.report()).toEqual({ state: 'ready', components: {} });
    health.set('a', 'ready');
    health.set('b', 'degraded', 'one of two workers is gone');
    expect(health.report()).toEqual({ state: 'degraded', components: { a: { state: 'ready' }, b: { state: 'degraded', reason: 'one of two workers is gone' } } });
    health.set('c', 'failed');
    expect(health.report().state).toBe('failed');
    health.remove('c');
    health.set('b', 'ready');
    expect(health.report().state).toBe('ready');
  });
});

describe('AdminRouteTable', () => {
  it('answers by pattern: objects, text, nothing, failures', async () => {
    const lines: string[] = [];
    const table = new AdminRouteTable(new PinoLogger({ write: (line) => void lines.push(line) }));
    const remove = table.get('/things/:id', 'One thing.', ({ params, query }) => ({ id: params['id'], full: query.get('full'), big: 2n ** 60n, column: Int32Array.of(1, 2) }));
    table.get('/text', 'Text.', () => 'hello');
    table.get('/none', 'Nothing.', () => undefined);
    table.get('/broken', 'Broken.', () => Promise.reject(new Error('inner')));
    const get = (path: string): Promise<{ status: number; body: string }> => table.handle(path, new URLSearchParams('full=1'));
    expect(await get('/things/a%2Fb')).toMatchObject({ status: 200, body: '{"id":"a/b","full":"1","big":"1152921504606846976","column":[1,2]}' });
    expect(await get('/text')).toMatchObject({ status: 200, contentType: 'text/plain; charset=utf-8', body: 'hello' });
    expect(await get('/none')).toMatchObject({ status: 404 });
    expect(await get('/broken')).toMatchObject({ status: 500, body: '{"error":{"code":"INTERNAL_ERROR","message":"inner"}}' });
    expect(lines).toHaveLength(1);
    expect(() => table.get('/text', 'Again.', () => 1)).toThrow(expect.objectContaining({ code: 'ADMIN_ROUTE_TAKEN' }));
    expect(table.list().map(({ pattern }) => pattern)).toEqual(['/things/:id', '/text', '/none', '/broken']);
    expect(JSON.parse((await get('/')).body)).toMatchObject({ routes: [{ pattern: '/things/:id', description: 'One thing.' }, {}, {}, {}] });
    remove();
    expect(await get('/things/a')).toMatchObject({ status: 404 });
  });
});

describe('PinoLogger', () => {
  it('writes JSON lines with fields of its parents, from its level up, by its clock', () => {
    const lines: string[] = [];
    const log = new PinoLogger({ level: 'info', clock: new VirtualClock(), write: (line) => void lines.push(line) });
    const child = log.child({ plugin: 'router-policy/x' });
    child.debug('not written');
    child.warn('slow', { ms: 12 });
    expect(lines.map((line) => JSON.parse(line))).toEqual([{ level: 'warn', time: '2026-01-01T00:00:00.000Z', plugin: 'router-policy/x', ms: 12, message: 'slow' }]);
    expect([child.isEnabled('debug'), child.isEnabled('error')]).toEqual([false, true]);
  });

  it('never writes a secret, however it gets into a line', () => {
    const lines: string[] = [];
    const log = new PinoLogger({ write: (line) => void lines.push(line) });
    const child = log.child({ deep: { header: 'Bearer s3cr"et-key' } });
    log.output.hide(['s3cr"et-key']);
    child.info('calls with s3cr"et-key');
    expect(lines.join('')).not.toContain('et-key');
    expect(lines.join('')).toContain('***');
  });

  it('is readable at a terminal', () => {
    expect(prettyLine('{"level":"warn","time":"2026-01-01T12:30:01.250Z","message":"engine lost","worker":"decode/0","why":"two words","n":1}\n')).toBe(
      '12:30:01.250 warn  engine lost  worker=decode/0 why="two words" n=1\n',
    );
  });
});

describe('trace context', () => {
  const random = new SeededRandom(1);
  it('reads, begins and continues traces', () => {
    const header = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
    expect(parseTraceparent(header)).toEqual({ traceId: '0af7651916cd43dd8448eb211c80319c', parentId: 'b7ad6b7169203331', sampled: true });
    const child = parseTraceparent(childTraceparent(header, random));
    expect(child?.traceId).toBe('0af7651916cd43dd8448eb211c80319c');
    expect(child?.parentId).not.toBe('b7ad6b7169203331');
    expect(parseTraceparent(newTraceparent(random, false))?.sampled).toBe(false);
    expect(parseTraceparent(childTraceparent('rubbish', random))).toBeDefined();
    for (const bad of [undefined, '', '00-0-0-01', `00-${'0'.repeat(32)}-b7ad6b7169203331-01`, `ff${header.slice(2)}`, `${header}-more`]) expect(parseTraceparent(bad)).toBeUndefined();
    expect(parseTraceparent(`01${header.slice(2)}-more`)).toBeDefined();
  });
});
