import type { Discovery, DiscoveryWatcher, InferenceEnd, InferenceRequest, Logger, PlainData, RouterPolicy, WorkerRecord } from '@armature/contracts';
import { saltHash, sequenceHashes } from '@armature/tokens';
import { describe, expect, it } from 'vitest';
import { config } from '../admission/testing.test.support.ts';
import { parseRequest, parseRequestFor } from '../messages.ts';
import { always } from '../policies/disaggregation.ts';
import { RequestRecords } from '../routing/records.ts';
import { CountingMetrics, FakePlane, ManualClock, silentLog, testRandom, workerRecord } from '../test-support/fakes.ts';
import type { FakeCall } from '../test-support/fakes.ts';
import { ModelRuntime } from './model-runtime.ts';
import type { ModelRuntimeOptions } from './model-runtime.ts';

const flat: RouterPolicy = { name: 'flat', supports: { deterministic: true }, score: () => undefined };
const prompt = Int32Array.from({ length: 10 }, (_, i) => i);
const sampling = { temperature: 0, topP: 1, topK: 0, minP: 0, seedLo: 0, seedHi: 0, frequencyPenalty: 0, presencePenalty: 0, repetitionPenalty: 1, topLogprobs: -1, biasTokenIds: new Int32Array(0), biasValues: new Float32Array(0) };
const request = (id: string): InferenceRequest => ({ id, promptTokenIds: prompt, sampling, stop: { maxTokens: 4, minTokens: 0, stopTokenIds: new Int32Array(0), ignoreEos: false }, choices: 1, deadlineMs: 1_000, cacheSalt: '', priority: 0, routing: {}, traceparent: '' });

async function build(more: Partial<ModelRuntimeOptions> = {}, whenNoPrefillWorker: 'local' | 'fail' = 'fail') {
  let watcher: DiscoveryWatcher | undefined;
  const plane = new FakePlane();
  const warned: unknown[] = [];
  const log: Logger = { ...silentLog, warn: (_message, fields) => void warned.push(fields?.['code']) };
  const runtime = new ModelRuntime({
    name: 'm',
    routerId: 'r',
    preprocessor: { card: { maxModelTokens: 100 } } as never,
    blockSize: 4,
    leaseTtlMs: 1_000,
    migrationLimit: 0,
    deadlines: { prefillMs: 0, transferMs: 0, firstTokenMs: 0, interTokenMs: 0 },
    failoverWaitMs: 0,
    policy: flat,
    disaggregation: await always.create({ whenNoPrefillWorker }, undefined as never),
    discovery: { watch: (_prefix: string, to: DiscoveryWatcher) => ((watcher = to), Promise.resolve({ close: () => undefined })) } as unknown as Discovery,
    events: { supports: { processes: false }, publish: () => undefined, subscribe: () => ({ close: () => undefined }) },
    requests: plane,
    records: new RequestRecords(10),
    clock: new ManualClock(),
    random: testRandom(1),
    log,
    metrics: new CountingMetrics(),
    health: { set: () => undefined, remove: () => undefined, report: () => ({ state: 'ready', components: {} }) },
    ...more,
  });
  await runtime.start();
  const join = (name: string, role: WorkerRecord['role'], adapters?: readonly string[]): void => {
    watcher?.put({ key: `workers/m/${name}@1`, value: workerRecord(name, role, adapters === undefined ? {} : { adapters }) as unknown as PlainData } as never);
  };
  const ask = (name: string, id = name): InferenceEnd | undefined => {
    let ended: InferenceEnd | undefined;
    (name === 'm' ? runtime : runtime.adapters.get(name))?.execute(request(id), { tokens: () => undefined, end: (end) => void (ended = end) });
    return ended;
  };
  return { runtime, plane, warned, join, left: (name: string) => watcher?.removed(`workers/m/${name}@1`), ask };
}

const failure = (end: InferenceEnd | undefined): string => (end?.type === 'failed' ? end.error.code : 'none');
const hashesOf = (call: FakeCall | undefined): Int32Array => parseRequest(call!.open.message).sequenceHashes;

describe('adapters as models', () => {
  it('come with the first worker that has them, and stay known when the last one leaves', async () => {
    const { runtime, join, left, ask } = await build({ adapters: ['configured'] });
    join('a/0', 'both');
    expect(runtime.adapters.list().map(({ name, parent }) => [name, parent])).toEqual([['configured', 'm']]);
    expect([runtime.adapters.get('legal'), failure(ask('configured'))]).toEqual([undefined, 'SERVING_NO_ADAPTER_WORKER']);
    join('b/0', 'both', ['legal']);
    expect(runtime.adapters.list().map(({ name }) => name)).toEqual(['configured', 'legal']);
    const legal = runtime.adapters.get('legal');
    expect([legal?.isReady(), legal?.maxModelTokens, runtime.adapters.get('configured')?.isReady()]).toEqual([true, 100, false]);
    left('b/0');
    expect([legal?.isReady(), runtime.isReady(), failure(ask('legal')), failure(ask('m'))]).toEqual([false, true, 'SERVING_NO_ADAPTER_WORKER', 'none']);
    left('a/0');
    expect(failure(ask('legal', 'again'))).toBe('SERVING_NO_WORKER'); // nobody at all
    join('b/1', 'both', ['legal']);
    expect([legal?.isReady(), failure(ask('legal', 'third'))]).toEqual([true, 'none']);
  });

  it('a prefill worker alone does not make one ready', async () => {
    const { runtime, join } = await build();
    join('p/0', 'prefill', ['legal']);
    expect(runtime.adapters.get('legal')?.isReady()).toBe(false);
    join('d/0', 'decode', ['legal']);
    expect(runtime.adapters.get('legal')?.isReady()).toBe(true);
  });

  it('names that something else has are warned of, once', async () => {
    const { warned, join } = await build({ alsoNamed: (name) => (name === 'taken' ? 'model "taken"' : undefined) });
    join('a/0', 'both', ['taken', 'free']);
    join('a/1', 'both', ['taken', 'free']);
    expect(warned).toEqual(['SERVING_ADAPTER_NAME_TAKEN']);
  });

  it('names without a worker are forgotten beyond 1024, those heard of first; live and configured ones never', async () => {
    const { runtime, join, left } = await build({ adapters: ['configured'] });
    join('live/0', 'both', ['live']);
    for (let i = 0; i < 1_100; i++) {
      join(`w/${i}`, 'both', [`old-${i}`]);
      left(`w/${i}`);
    }
    const names = runtime.adapters.list().map(({ name }) => name);
    expect(names).toHaveLength(1_024);
    expect([names.slice(0, 2), names.at(-1), names.includes('old-0')]).toEqual([['configured', 'live'], 'old-1099', false]);
  });

  it('a record whose adapters are no names is refused', async () => {
    const { runtime, join } = await build();
    for (const [i, nonsense] of ['legal', [7], [''], ['x'.repeat(257)], {}].entries()) join(`a/${i}`, 'both', nonsense as never);
    expect(runtime.router.table.records()).toEqual([]);
    join('b/0', 'both', []);
    expect(runtime.router.table.records()).toHaveLength(1);
  });
});

describe('a request for an adapter', () => {
  it('goes only to workers that have it; the base model goes to all', async () => {
    const { plane, join, ask } = await build();
    join('a/0', 'both', ['legal', 'medical']);
    join('b/0', 'both', ['legal']);
    join('c/0', 'both');
    for (const [name, expected] of [['medical', ['a/0']], ['legal', ['a/0', 'b/0']], ['m', ['a/0', 'b/0', 'c/0']]] as const) {
      plane.calls.length = 0;
      for (let i = 0; i < 60; i++) ask(name, `${name}-${i}`);
      expect([...new Set(plane.calls.map(({ address }) => address.slice('fake:'.length)))].sort()).toEqual(expected);
      expect(plane.calls.every(({ open }) => open.message['adapter'] === (name === 'm' ? undefined : name))).toBe(true);
    }
  });

  it('carries the adapter in its hashes and its message', async () => {
    const { plane, join, ask } = await build();
    join('a/0', 'both', ['legal', 'medical']);
    for (const name of ['m', 'legal', 'medical']) ask(name);
    const hashes = plane.calls.map(hashesOf);
    expect(hashes).toEqual(['', 'legal', 'medical'].map((lora) => sequenceHashes(prompt, prompt.length, 4, saltHash({ lora }))));
    expect(new Set(hashes.map(String))).toHaveLength(3);
  });

  it('prefill and decode: both workers have it', async () => {
    const { plane, join, ask } = await build();
    for (const [name, adapters] of [['0', ['other']], ['1', ['legal']], ['2', undefined]] as const) {
      join(`p/${name}`, 'prefill', adapters);
      join(`d/${name}`, 'decode', adapters);
    }
    for (let i = 0; i < 20; i++) ask('legal', `r${i}`);
    expect(new Set(plane.calls.map(({ address }) => address))).toEqual(new Set(['fake:p/1']));
    plane.calls[0]?.reply({ type: 'prefilled', lease: 1, blocks: Int32Array.of(1, 2, 3), tokens: 4, cachedTokens: 0 });
    expect(plane.calls.at(-1)).toMatchObject({ address: 'fake:d/1', open: { method: 'decode', message: { adapter: 'legal' } } });
    expect(hashesOf(plane.calls.at(-1))).toEqual(hashesOf(plane.calls[0]));
  });

  it.each([
    ['fail', 'SERVING_NO_PREFILL_WORKER', []],
    ['local', 'none', ['fake:d/0']],
  ] as const)('no prefill worker has it: as with none at all (%s)', async (rule, code, called) => {
    const { plane, join, ask } = await build({}, rule);
    join('p/0', 'prefill');
    join('d/0', 'decode', ['legal']);
    expect(failure(ask('legal'))).toBe(code);
    expect(plane.calls.map(({ address }) => address)).toEqual(called);
    expect(failure(ask('m'))).toBe('none');
    expect(plane.calls.at(-1)?.address).toBe('fake:p/0');
  });

  it('waits in the queue for the workers that have it, and holds up nobody else', async () => {
    const { plane, join, ask } = await build({ queue: { ...config, prefillTokens: 5 } });
    join('a/0', 'both', ['legal']);
    join('b/0', 'both');
    ask('legal', 'first'); // a/0 is busy now
    ask('legal', 'second');
    expect(plane.calls.map(({ address }) => address)).toEqual(['fake:a/0']);
    ask('m', 'third');
    expect(plane.calls.map(({ address }) => address)).toEqual(['fake:a/0', 'fake:b/0']);
    plane.calls[0]?.reply({ type: 'tokens', count: 1, tokenIds: Int32Array.of(1), finish: Uint8Array.of(0), topCount: 0 });
    expect(plane.calls.at(-1)).toMatchObject({ address: 'fake:a/0', open: { message: { adapter: 'legal' } } });
    expect(plane.calls).toHaveLength(3);
  });

  it('placed for another gateway: the same workers, the same hashes', async () => {
    const { runtime, join } = await build();
    join('a/0', 'both', ['legal']);
    join('b/0', 'both');
    const query = { promptTokenIds: prompt, cacheSalt: '', routing: {}, tracks: true };
    const selector = runtime.adapters.get('legal')?.selector;
    for (let i = 0; i < 20; i++) expect(selector?.select({ ...query, id: `s${i}` }).worker.instanceId).toBe('a/0@1');
    expect([runtime.selector.tracked, selector?.ended('s3'), runtime.selector.tracked]).toEqual([20, true, 19]);
    expect(() => runtime.selector.select({ ...query, id: 'x', adapter: 'none' })).toThrow(expect.objectContaining({ code: 'SERVING_NO_ADAPTER_WORKER' }));
  });
});

describe('on the wire', () => {
  it('adapter is a field that may be absent; a worker refuses one that its engine lacks, so that the request moves on', async () => {
    const { plane, join, ask } = await build();
    join('a/0', 'both', ['legal']);
    ask('m');
    ask('legal');
    const [base, legal] = plane.calls.map(({ open }) => open.message);
    expect([base && 'adapter' in base, parseRequest(base!).adapter, parseRequest(legal!).adapter]).toEqual([false, undefined, 'legal']);
    expect(() => parseRequest({ ...legal!, adapter: 7 })).toThrow(expect.objectContaining({ code: 'SERVING_MESSAGE_INVALID' }));
    const info = (adapters?: readonly string[]) => ({ abilities: {}, info: adapters === undefined ? {} : { adapters } }) as never;
    expect(parseRequestFor(info(), base!).id).toBe(parseRequest(base!).id);
    expect(parseRequestFor(info(['legal']), legal!).adapter).toBe('legal');
    for (const has of [undefined, [], ['other']]) expect(() => parseRequestFor(info(has), legal!)).toThrow(expect.objectContaining({ code: 'SERVING_ADAPTER_UNKNOWN', retryable: true }));
  });
});
