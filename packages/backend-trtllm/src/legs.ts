import type { Usage } from '@armature/contracts';
import { ChoiceOutput } from './choice-output.ts';
import type { OutputModel } from './choice-output.ts';
import { completionBody, parseChunk } from './completion.ts';
import type { CompletionCall, CompletionUsage } from './completion.ts';
import { contextParams, decodeHandover, encodeHandover, generationParams } from './disaggregated-params.ts';
import type { DisaggregatedParams } from './disaggregated-params.ts';
import { wholeText } from './http.ts';
import type { Http } from './http.ts';
import type { JsonValue } from './lossless-json.ts';
import { failed, refusal, truncated } from './problems.ts';
import type { Running } from './running.ts';
import { SseParser } from './sse.ts';

/** What a leg needs of its engine. */
export interface LegHost {
  readonly http: Http;
  readonly output: OutputModel;
  call(running: Running): Pick<CompletionCall, 'model' | 'maxModelTokens' | 'adapter' | 'sendPriority'>;
  /** Pairs the two legs in versions that have `disagg_request_id`; undefined in others. */
  disaggRequestId(): bigint | undefined;
  /** The server gave a token. */
  heard(): void;
}

interface ChoiceEnd {
  readonly output: ChoiceOutput;
  readonly usage: CompletionUsage | undefined;
}

const NO_BLOCKS = new Int32Array(0);

/**
 * A context leg: computes the prompt, samples the first token of each choice, and hands over what the context server says of each. A choice that ends with
 * its first token has nothing to hand over.
 */
export async function runContext(running: Running, host: LegHost): Promise<Usage> {
  const { request } = running;
  const params: (DisaggregatedParams | undefined)[] = Array.from({ length: request.choices }, () => undefined);
  const ends = await eachChoice(running, async (choice) => {
    const response = await post(running, host, choice, contextParams(host.disaggRequestId()));
    const { choice: answer, usage } = parseChunk(await wholeText(response));
    if (answer === undefined) throw failed('no choice');
    const output = new ChoiceOutput(request, choice, host.output, running.rows);
    output.take(answer);
    if (!output.hasEnded) params[choice] = generationParams(answer.disaggregatedParams);
    running.heard();
    host.heard();
    return { output, usage };
  });
  running.deliver();
  const usage = usageOf(running, ends);
  if (params.some((choice) => choice !== undefined)) {
    running.prefilled({ lease: 0, blocks: NO_BLOCKS, tokens: request.promptTokens, cachedTokens: usage.cachedTokens, params: encodeHandover(params) });
  }
  return usage;
}

/** A whole request, or the generation leg of one. */
export async function runOutput(running: Running, host: LegHost): Promise<Usage> {
  const { request } = running;
  const ends = await eachChoice(running, async (choice) => {
    if (request.firstTokens?.[choice] === -1) return undefined; // it has ended with its first token
    const params = request.kvSource?.type === 'opaque' ? decodeHandover(request.kvSource.params, choice) : undefined;
    return stream(running, host, choice, params);
  });
  return usageOf(running, ends);
}

async function stream(running: Running, host: LegHost, choice: number, params: JsonValue | undefined): Promise<ChoiceEnd> {
  const response = await post(running, host, choice, params);
  const output = new ChoiceOutput(running.request, choice, host.output, running.rows);
  let usage: CompletionUsage | undefined;
  let isDone = false;
  let isEndless = false;
  const parser = new SseParser((data) => {
    if (isDone || running.hasEnded) return;
    if (data === '[DONE]') {
      isDone = true;
      return;
    }
    const chunk = parseChunk(data);
    running.heard();
    usage = chunk.usage ?? usage;
    if (chunk.choice === undefined || output.hasEnded) return;
    output.take(chunk.choice);
    // What ended here by a rule of ours need not end there: nobody waits for its rest.
    isEndless = output.hasEnded && chunk.choice.finishReason === undefined;
    if (running.rows.count > 0) host.heard();
    running.deliver();
  });
  try {
    // Read to the end, also after [DONE]: only then can the connection be used again.
    for await (const bytes of (response.body ?? []) as AsyncIterable<Uint8Array>) {
      parser.push(bytes);
      if (isEndless) break;
    }
  } catch (error) {
    if (!output.hasEnded) throw error; // else only the server's goodbye is missing
  }
  if (!output.hasEnded) throw truncated(isDone ? 'the stream ended with [DONE] and without a finish reason' : 'the stream ended before [DONE]');
  return { output, usage };
}

/** Throws `TRTLLM_REFUSED`, `ENGINE_REQUEST_UNSUPPORTED`, `ENGINE_PROMPT_TOO_LONG`, what fetch throws. */
async function post(running: Running, host: LegHost, choice: number, disaggregatedParams: JsonValue | undefined): Promise<Response> {
  const body = completionBody({ ...host.call(running), request: running.request, choice, disaggregatedParams });
  const response = await host.http.post('/v1/completions', body, running.abort.signal);
  if (response.ok) return response;
  throw refusal(response.status, await wholeText(response));
}

/** All choices at once, each a request of its own; the first failure ends the others and is thrown once they are gone. */
async function eachChoice(running: Running, run: (choice: number) => Promise<ChoiceEnd | undefined>): Promise<ChoiceEnd[]> {
  const errors: unknown[] = [];
  const ends = await Promise.all(
    Array.from({ length: running.request.choices }, (_, choice) =>
      run(choice).catch((error: unknown) => {
        errors.push(error);
        running.abort.abort();
        return undefined;
      }),
    ),
  );
  if (errors.length > 0) throw errors[0];
  return ends.filter((end) => end !== undefined);
}

/** Prompt tokens are the request's. Cached is what the first of the choices found: the others may have found what that one stored. */
function usageOf({ request }: Running, ends: readonly ChoiceEnd[]): Usage {
  const cached = ends.map(({ usage }) => usage?.cachedTokens ?? 0);
  return {
    promptTokens: request.promptTokens,
    cachedTokens: Math.min(request.promptTokens, ...(cached.length === 0 ? [0] : cached)),
    outputTokens: ends.reduce((sum, { output }) => sum + output.tokens, 0),
  };
}
