import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { FinishCode } from '@armature/contracts';
import type { EngineRequest, KvEvent } from '@armature/contracts';
import { saltHash, sequenceHashes } from '@armature/tokens';
import { BatchReader } from './kv-events/batch-reader.ts';
import { EngineBlocks } from './kv-events/engine-blocks.ts';
import { eventFrame, replayFrame } from './kv-events/frames.ts';
import { base, logged, Recorder, server, started } from './testing.test.support.ts';
import type { ChunkChoice } from './wire.ts';

interface Answer {
  readonly status: number;
  readonly body: string;
}
interface Completion extends Answer {
  readonly request: { readonly prompt: readonly number[] | string; readonly n: number; readonly max_tokens: number; readonly logprobs?: number; readonly cache_salt?: string };
  readonly contentType: string;
}
interface Recording {
  readonly vllm: string;
  /** How it came about: recorded from a server, or written after the sources of the release. */
  readonly source: string;
  readonly version: Answer;
  readonly models: Answer;
  readonly metrics: Answer;
  readonly eventSources?: Answer;
  readonly completions: Readonly<Record<string, Completion>>;
  readonly abort?: { readonly asked: number; readonly generated: number; readonly usage: number };
  readonly events?: { readonly published: readonly (readonly string[])[]; readonly replayed: readonly (readonly string[])[] };
}

const folder = new URL('../fixtures/', import.meta.url);
const recordings = readdirSync(folder)
  .map((version) => new URL(`${version}/http.json`, folder))
  .filter((file) => existsSync(file))
  .map((file) => JSON.parse(readFileSync(file, 'utf8')) as Recording);

/** What becomes of those that vLLM does not serve. All others finish. */
const FAILURES: Readonly<Record<string, readonly [code: RegExp, message: RegExp]>> = {
  unknownModel: [/^VLLM_REFUSED$/, /does not exist/],
  tokenAboveVocabulary: [/^(VLLM_REFUSED|ENGINE_REQUEST_UNSUPPORTED)$/, /out of vocabulary/],
  promptTooLong: [/^VLLM_REFUSED$/, /maximum context length/],
  badField: [/^VLLM_REFUSED$/, /temperature must be non-negative/],
  prefill: [/^VLLM_NO_TRANSFER$/, /no kv_transfer_params/],
};
const NEEDED = ['greedy', 'cached', 'logprobs', 'choices', 'eos', 'unknownModel', 'promptTooLong', 'prefill'];

/** The server answers as the recorded one did, in pieces of 100 bytes. */
function replay(completion: Completion): void {
  server.answer = async (_request, response) => {
    response.writeHead(completion.status, { 'content-type': completion.contentType });
    const bytes = Buffer.from(completion.body);
    for (let at = 0; at < bytes.length; at += 100) {
      response.write(bytes.subarray(at, at + 100));
      if (at % 1000 === 0) await new Promise((resolve) => setImmediate(resolve));
    }
    response.end();
  };
}

function requestOf(name: string, { request }: Completion): EngineRequest {
  // A long prompt is kept as `2045 times 50`.
  const [length = 0, token = 0] = typeof request.prompt === 'string' ? request.prompt.split(' times ').map(Number) : [];
  const tokenIds = typeof request.prompt === 'string' ? new Int32Array(length).fill(token) : Int32Array.from(request.prompt);
  return {
    ...base,
    leg: name === 'prefill' ? 'prefill' : 'full',
    tokenIds,
    promptTokens: tokenIds.length,
    choices: request.n,
    sampling: { ...base.sampling, topLogprobs: request.logprobs ?? -1 },
    stop: { ...base.stop, maxTokens: request.max_tokens },
  };
}

async function outcomeOf(recording: Recording, name: string, completion: Completion): Promise<Recorder> {
  // A prompt that is too long would be refused here: as if vLLM had not told its limit.
  server.modelsBody = name === 'promptTooLong' ? recording.models.body.replace('"max_model_len":2048', '"max_model_len":null') : recording.models.body;
  server.metrics = recording.metrics.body;
  const backend = await started({ model: 'demo' });
  replay(completion);
  const sink = new Recorder();
  backend.submit(requestOf(name, completion), sink);
  await sink.ended;
  return sink;
}

/** What the recorded stream says, read the slow way. */
function choicesIn({ body }: Completion): { readonly tokens: number[][]; readonly reasons: (string | undefined)[]; readonly usage: { prompt_tokens: number; completion_tokens: number; prompt_tokens_details?: { cached_tokens: number } | null } } {
  const chunks = body.split('\n').filter((line) => line.startsWith('data: {')).map((line) => JSON.parse(line.slice(6)) as { choices: ChunkChoice[]; usage?: never });
  const choices = chunks.flatMap((chunk) => chunk.choices);
  const of = (index: number): ChunkChoice[] => choices.filter((choice) => choice.index === index);
  const indices = [...new Set(choices.map(({ index }) => index ?? 0))].sort((a, b) => a - b);
  return {
    tokens: indices.map((index) => of(index).flatMap(({ token_ids: ids }) => ids ?? [])),
    reasons: indices.map((index) => of(index).findLast(({ finish_reason: reason }) => typeof reason === 'string')?.finish_reason ?? undefined),
    usage: chunks.findLast(({ usage }) => usage !== undefined && usage !== null)!.usage!,
  };
}

describe.each(recordings)('vLLM $vllm ($source)', (recording) => {
  const { vllm } = recording;

  test('is attached to: its model, limits and cache are found', async () => {
    server.version = (JSON.parse(recording.version.body) as { version: string }).version;
    server.modelsBody = recording.models.body;
    server.metrics = recording.metrics.body;
    if (recording.eventSources !== undefined) server.eventSources = JSON.parse(recording.eventSources.body) as object;
    const { info, load } = await started({ model: 'demo' }).then((backend) => ({ info: backend.info, load: backend.load() }));
    const [, blocks] = /cache_config_info\{.*num_gpu_blocks="(\d+)"/.exec(recording.metrics.body) ?? [];
    expect(info, vllm).toMatchObject({ modelFingerprint: 'vllm//models/demo', maxModelTokens: 2048, blockSize: 32, totalBlocks: Number(blocks) });
    expect(load, vllm).toMatchObject({ running: 0, waiting: 0, usedBlocks: 0, freeBlocks: Number(blocks) });
    expect(logged).not.toMatch(/VLLM_VERSION_UNKNOWN|VLLM_EVENTS_SILENT|does not tell/);
    expect(vllm).toBe(server.version);
  });

  test.each(Object.entries(recording.completions))('%s', async (name, completion) => {
    const sink = await outcomeOf(recording, name, completion);
    const [end] = sink.ends;
    const failure = FAILURES[name];
    if (failure !== undefined) {
      const { code, message, retryable } = end?.type === 'failed' ? end.error : { code: end?.type, message: '', retryable: false };
      expect([code, message], vllm).toEqual([expect.stringMatching(failure[0]), expect.stringMatching(failure[1])]);
      expect(retryable ?? false, `${vllm}: the same would happen anywhere`).toBe(false);
      return;
    }
    const { tokens, reasons, usage } = choicesIn(completion);
    const rows = sink.batches.flatMap((batch) => Array.from({ length: batch.count }, (_, i) => ({ of: batch.choices?.[i] ?? 0, token: batch.tokenIds[i]!, finish: batch.finish[i]!, logprob: batch.logprobs?.[i], top: batch.topTokenIds?.[i * batch.topCount] })));
    const finishOf = (reason: string | undefined): FinishCode => (reason === 'length' ? FinishCode.Length : FinishCode.Stop);
    tokens.forEach((expected, of) => {
      const got = rows.filter((row) => row.of === of);
      expect(got.map(({ token }) => token), `${vllm}: tokens of choice ${of}`).toEqual(expected);
      expect(got.map(({ finish }) => finish), `${vllm}: finish codes of choice ${of}`).toEqual([...expected.slice(1).map(() => FinishCode.None), finishOf(reasons[of])]);
    });
    expect(tokens.length).toBe(completion.request.n);
    expect(end, vllm).toEqual({ type: 'finished', usage: { promptTokens: usage.prompt_tokens, cachedTokens: usage.prompt_tokens_details?.cached_tokens ?? 0, outputTokens: usage.completion_tokens } });
    const wantsLogprobs = completion.request.logprobs !== undefined;
    expect(rows.every(({ logprob }) => (logprob === undefined) === !wantsLogprobs && (logprob ?? 0) <= 0), `${vllm}: logprobs`).toBe(true);
    if (wantsLogprobs) expect(rows.map(({ top }) => top), `${vllm}: greedy takes the best`).toEqual(tokens[0]);
  });

  test('all that is needed is there', () => {
    expect(NEEDED.filter((name) => recording.completions[name] === undefined), vllm).toEqual([]);
    const { tokens, reasons } = choicesIn(recording.completions['greedy']!);
    expect([tokens[0]?.length, reasons[0]], vllm).toEqual([6, 'length']);
  });

  // Sabotage: what these tests would say of a server that changed its words.
  test.each([
    ['token_ids by another name', 'greedy', '"token_ids":', '"tokens":', 'VLLM_STREAM_INVALID'],
    ['no finish reasons', 'eos', '"finish_reason":"stop"', '"ended":true', 'VLLM_STREAM_TRUNCATED'],
    ['choices that are no list', 'greedy', '"choices":[', '"choices":{"0":[', 'VLLM_STREAM_INVALID'],
  ])('a change is noticed: %s', async (_what, name, from, to, outcome) => {
    const right = recording.completions[name]!;
    const completion = { ...right, body: right.body.replaceAll(from, to) };
    expect(completion.body).not.toBe(right.body);
    const [end] = (await outcomeOf(recording, name, completion)).ends;
    expect(end?.type === 'failed' ? end.error.code : end?.type, vllm).toBe(outcome);
  });
});

const recorded = recordings.filter(({ source }) => source.startsWith('recorded'));

describe.each(recorded)('vLLM $vllm, recorded', ({ vllm, completions, abort, events }) => {
  const promptOf = (name: string): number[] => [...(completions[name]!.request.prompt as readonly number[])];

  test('ends what nobody reads, and frees its blocks', () => {
    expect(abort!.generated, vllm).toBeLessThan(abort!.asked / 2);
    expect(abort!.usage, vllm).toBe(0);
  });

  test('tells of its blocks, live and again, as frames that are ours to read', () => {
    const told: KvEvent[] = [];
    const blocks = new EngineBlocks(32, (event) => told.push(event));
    const reader = new BatchReader();
    const bytes = (frames: readonly string[]): Buffer[] => frames.map((frame) => Buffer.from(frame, 'hex'));
    const live = events!.published.map((frames) => eventFrame(bytes(frames)));
    const again = events!.replayed.map((frames) => replayFrame(bytes(frames)));
    expect(again.at(-1), vllm).toBe('end');
    // Payloads are the same; the replay begins with the first.
    expect(again.slice(0, -1), vllm).toEqual(live);
    for (const [i, frame] of live.entries()) {
      expect(frame?.sequence, vllm).toBe(i);
      reader.read(frame!.payload, blocks);
      blocks.flush();
    }
    const stored = (hashes: Int32Array, cacheSalt = ''): boolean => {
      const last = [...hashes.slice(-2)].join();
      return told.some((event) => event.type === 'stored' && (event.cacheSalt ?? '') === cacheSalt && [...event.sequenceHashes].join().endsWith(last));
    };
    const chain = (tokens: number[], cacheSalt = ''): Int32Array => sequenceHashes(Int32Array.from(tokens), tokens.length, 32, saltHash({ cacheSalt }));
    expect(stored(chain(promptOf('greedy'))), `${vllm}: the prompt`).toBe(true);
    const grown = [...promptOf('grown'), ...choicesIn(completions['grown']!).tokens[0]!];
    expect(stored(chain(grown)), `${vllm}: blocks filled by output`).toBe(true);
    expect(stored(chain(promptOf('salted'), 'tenant'), 'tenant'), `${vllm}: of a tenant`).toBe(true);
    expect(told.filter(({ type }) => type === 'cleared').length, vllm).toBeGreaterThan(0);
    expect(blocks.counts, vllm).toMatchObject({ ignoredEvents: 0, orphanBlocks: 0, misshapenBlocks: 0, foreignBlocks: 0 });
    // After the reset only the last request's blocks are held.
    expect(blocks.heldBlocks, vllm).toBe(2);
  });
});

test('one release at least is recorded from a server, and each has its origin', () => {
  expect(recorded.map(({ vllm }) => vllm)).toContain('0.32.0');
  for (const { vllm, source } of recordings) expect(source, vllm).toMatch(/^(recorded from vllm|written after the sources of vllm) \d/);
});
