import { closeSync, openSync, readSync } from 'node:fs';
import { ArmatureError } from '@armature/contracts';
import type { Random } from '@armature/contracts';
import { arrivals, shiftPhases } from '@armature/fleet-model';

/** One request of a trace. `blocks`: a number for each block of the prompt, the last one possibly partial; equal numbers are equal tokens after equal tokens. */
export interface TraceRow {
  readonly atMs: number;
  readonly promptTokens: number;
  readonly outputTokens: number;
  readonly blocks: Int32Array;
}

/** Block numbers are token ids of the simulated model: below this. */
const MOST_BLOCKS = 0x7fffffff;
const MOST_TOKENS = 10_000_000;
const READ_BYTES = 1 << 20;

/**
 * Reads a trace in Mooncake's format: a JSON object per line, `timestamp` (milliseconds, ascending), `input_length`, `output_length`, `hash_ids`. Throws
 * `TRACE_INVALID` with the number of the line. `blockSize`: tokens that a hash id stands for. Synchronous: virtual time must not pass while a disk is waited for.
 */
export function* readTrace(file: string, blockSize: number, limit = Infinity): Generator<TraceRow> {
  let lastMs = 0;
  let rows = 0;
  let number = 0;
  for (const line of readLines(file)) {
    number++;
    if (line.trim() === '') continue;
    const row = parseRow(line, blockSize, (what, hint) => new ArmatureError('TRACE_INVALID', `${file}, line ${number}: ${what}`, { hint }));
    if (row.atMs < lastMs) throw new ArmatureError('TRACE_INVALID', `${file}, line ${number}: timestamp ${row.atMs} comes after ${lastMs}`, { hint: 'sort the lines by timestamp' });
    lastMs = row.atMs;
    yield row;
    if (++rows >= limit) return;
  }
  if (rows === 0) throw new ArmatureError('TRACE_INVALID', `${file} holds no request`, { hint: 'one JSON object per line: timestamp, input_length, output_length, hash_ids' });
}

function* readLines(file: string): Generator<string> {
  let handle: number;
  try {
    handle = openSync(file, 'r');
  } catch (error) {
    throw new ArmatureError('TRACE_INVALID', `cannot read ${file}: ${(error as Error).message}`, { hint: 'name a file in the format of the Mooncake traces', cause: error });
  }
  try {
    const chunk = Buffer.alloc(READ_BYTES);
    const decoder = new TextDecoder();
    let rest = '';
    for (;;) {
      const length = readSync(handle, chunk);
      if (length === 0) break;
      const lines = (rest + decoder.decode(chunk.subarray(0, length), { stream: true })).split('\n');
      rest = lines.pop() as string;
      yield* lines;
    }
    if (rest !== '') yield rest;
  } finally {
    closeSync(handle);
  }
}

function parseRow(line: string, blockSize: number, refuse: (what: string, hint: string) => ArmatureError): TraceRow {
  let row: Record<string, unknown>;
  try {
    row = JSON.parse(line) as Record<string, unknown>;
  } catch (error) {
    throw refuse(`no JSON: ${(error as Error).message}`, 'one JSON object per line');
  }
  const number = (name: string, low: number, high: number): number => {
    const value = row?.[name];
    if (typeof value === 'number' && value >= low && value <= high) return value;
    throw refuse(`${name} is ${JSON.stringify(value)}`, `${name} must be a number between ${low} and ${high}`);
  };
  const atMs = number('timestamp', 0, Number.MAX_SAFE_INTEGER);
  const promptTokens = Math.round(number('input_length', 1, MOST_TOKENS));
  // Some traces hold requests that were cut off before their first token.
  const outputTokens = Math.max(1, Math.round(number('output_length', 0, MOST_TOKENS)));
  const ids = row['hash_ids'];
  const needed = Math.ceil(promptTokens / blockSize);
  if (!Array.isArray(ids) || ids.length < Math.floor(promptTokens / blockSize)) {
    throw refuse(`hash_ids has ${Array.isArray(ids) ? ids.length : 'no'} entries for ${promptTokens} tokens`, `a number per block of ${blockSize} tokens: models[].blockSize must be that of the trace`);
  }
  const blocks = new Int32Array(needed);
  for (let i = 0; i < needed; i++) {
    const id = (ids as unknown[])[Math.min(i, ids.length - 1)];
    if (typeof id !== 'number' || !Number.isInteger(id) || id < 0 || id >= MOST_BLOCKS) throw refuse(`hash_ids[${i}] is ${JSON.stringify(id)}`, `whole numbers from 0 to ${MOST_BLOCKS - 1}`);
    blocks[i] = id;
  }
  return { atMs, promptTokens, outputTokens, blocks };
}

export interface SyntheticTrace {
  readonly kind: 'shift' | 'steady';
  readonly durationMs: number;
  /** `shift`: of its quiet phases. */
  readonly requestsPerSecond: number;
  /** Means. `shift`: exchanged from phase to phase. */
  readonly promptTokens: number;
  readonly outputTokens: number;
  /** Share of prompt tokens that other requests had at their beginning, drawn from so many prefixes. */
  readonly sharedShare: number;
  readonly prefixes: number;
}

/** Generated traffic: Poisson arrivals, log-normal lengths, prompts beginning with one of some shared prefixes. A function of its source of randomness. */
export function* syntheticTrace(options: SyntheticTrace, blockSize: number, random: Random): Generator<TraceRow> {
  const { kind, durationMs, requestsPerSecond, promptTokens, outputTokens, sharedShare, prefixes } = options;
  const phases =
    kind === 'shift'
      ? shiftPhases({ durationMs, requestsPerSecond, longTokens: promptTokens, shortTokens: outputTokens, hitRate: sharedShare }, random.fork('phases'))
      : [{ untilMs: durationMs, requestsPerSecond, promptTokens, outputTokens, hitRate: sharedShare }];
  const draw = random.fork('prefixes');
  // Prefixes have the first numbers, each of them as long as a prompt may be; what is a request's own comes after them.
  const longest = Math.ceil((promptTokens * 64) / blockSize);
  let next = prefixes * longest;
  for (const request of arrivals(phases, random.fork('arrivals'))) {
    const count = Math.ceil(request.promptTokens / blockSize);
    const shared = Math.min(longest, Math.floor(request.cachedTokens / blockSize));
    const prefix = draw.below(prefixes) * longest;
    if (next + count >= MOST_BLOCKS) next = prefixes * longest;
    const own = next;
    next += count - shared;
    yield { atMs: request.atMs, promptTokens: request.promptTokens, outputTokens: request.outputTokens, blocks: Int32Array.from({ length: count }, (_, i) => (i < shared ? prefix + i : own + i - shared)) };
  }
}
