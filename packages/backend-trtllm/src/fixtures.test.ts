import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import type { KvEvent } from '@armature/contracts';
import { noSalt, sequenceHashes } from '@armature/tokens';
import { ChoiceOutput } from './choice-output.ts';
import { parseChunk } from './completion.ts';
import { dialectOf } from './dialect.ts';
import { generationParams } from './disaggregated-params.ts';
import { EngineCache } from './kv-events/engine-cache.ts';
import { parseEvent } from './kv-events/wire.ts';
import { parseIterations } from './load.ts';
import { parseJson, stringifyJson } from './lossless-json.ts';
import type { JsonValue } from './lossless-json.ts';
import { refusal } from './problems.ts';
import { Rows } from './rows.ts';
import { SseParser } from './sse.ts';
import { base } from './testing.test.support.ts';

const folder = new URL('../fixtures/', import.meta.url);
const files = readdirSync(folder);
const none = { expected: (tokens: number[]): Int32Array => sequenceHashes(Int32Array.from(tokens), tokens.length, 2, noSalt) };

interface Fixture {
  readonly version: string;
  readonly source: string;
  readonly versionAnswer: { readonly version: string };
  readonly stream: readonly string[];
  readonly streamTokens: readonly number[];
  readonly streamCached: number;
  readonly stopStream: readonly string[];
  readonly errorInStream: string;
  readonly context: JsonValue;
  readonly events: readonly JsonValue[];
  readonly metrics: JsonValue;
  readonly refusal: { readonly status: number; readonly body: JsonValue };
}

/** Events of a stream that is cut in awkward places. */
function dataOf(lines: readonly string[]): string[] {
  const found: string[] = [];
  const parser = new SseParser((data) => void found.push(data));
  const bytes = Buffer.from(lines.map((line) => `${line}\r\n\r\n`).join(''));
  for (let at = 0; at < bytes.length; at += 7) parser.push(bytes.subarray(at, at + 7));
  return found;
}

function output(lines: readonly string[]): { readonly ids: number[]; readonly finish: number[]; readonly cached: number } {
  const rows = new Rows(base);
  const choice = new ChoiceOutput(base, 0, { maxModelTokens: 100, vocabSize: 100, eosTokenIds: new Set([4]) }, rows);
  let cached = 0;
  for (const data of dataOf(lines)) {
    if (data === '[DONE]') continue;
    const chunk = parseChunk(data);
    cached = chunk.usage?.cachedTokens ?? cached;
    if (chunk.choice !== undefined) choice.take(chunk.choice);
  }
  const { tokenIds, finish } = rows.take();
  return { ids: [...tokenIds], finish: [...(finish ?? [])], cached };
}

it('there is a fixture for each dialect', () => expect(files.sort()).toEqual(['1.0.json', '1.1.json', '1.2.json']));

describe.each(files)('wire format of TensorRT-LLM %s', (file) => {
  const fixture = parseJson(readFileSync(new URL(file, folder), 'utf8')) as unknown as Fixture;
  const of = `TensorRT-LLM ${fixture.version}`;

  it('version', () => expect(dialectOf('auto', fixture.versionAnswer.version)?.version, of).toBe(fixture.version));

  it('completions: tokens, ends, usage, an error in mid-stream', () => {
    expect(output(fixture.stream), of).toEqual({ ids: fixture.streamTokens, finish: [0, 0, 2], cached: fixture.streamCached });
    expect(output(fixture.stopStream), of).toEqual({ ids: [11, 4], finish: [0, 1], cached: 0 });
    expect(() => output([fixture.errorInStream]), of).toThrow(/executor has died/);
  });

  it('a context answer goes on to the generation server as it came', () => {
    const { choice } = parseChunk(stringifyJson(fixture.context));
    const { json, firstGenTokens } = generationParams(choice?.disaggregatedParams);
    expect(firstGenTokens, of).toEqual([11]);
    const came = (fixture.context as { readonly choices: readonly { readonly disaggregated_params: object }[] }).choices[0]?.disaggregated_params;
    expect(parseJson(json), of).toEqual({ ...came, request_type: 'generation_only' });
    expect(json, of).toContain('9223372036854775001');
  });

  it('KV events under our hashes', () => {
    const told: KvEvent[] = [];
    const cache = new EngineCache(2, (event) => void told.push(event));
    for (const value of fixture.events) {
      const event = parseEvent(value);
      expect(event, `${of}: ${stringifyJson(value)}`).toBeDefined();
      if (event !== undefined) cache.apply(event);
    }
    const [first, second] = [none.expected([1, 2]), none.expected([1, 2, 3, 4]).subarray(2)];
    expect(told.flatMap((event) => (event.type === 'cleared' ? [] : [[event.type, event.tier, ...event.sequenceHashes]])), of).toEqual([
      ['stored', 'device', ...first, ...second],
      ['stored', 'host', ...second],
      ['removed', 'device', ...second],
      ['removed', 'device', ...first],
    ]);
    expect([cache.totalBlocks, cache.counts.partialBlocks, cache.counts.unknownRemovals], of).toEqual([101, 1, 0]);
  });

  it('iteration statistics', () => {
    expect(parseIterations(stringifyJson(fixture.metrics)), of).toEqual({ running: 3, waiting: 2, usedBlocks: 11, totalBlocks: 101, blockSize: 2, paused: 1 });
    expect(parseIterations('[]'), of).toBeUndefined();
  });

  it('a refusal', () => expect(refusal(fixture.refusal.status, stringifyJson(fixture.refusal.body)).message, of).toContain('Extra inputs are not permitted'));
});
