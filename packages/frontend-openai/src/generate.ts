import { ArmatureError, childTraceparent } from '@armature/contracts';
import type { EncodedPrompt, HttpExchange, InferenceRequest, ModelDirectory, ModelHandle, StopParams } from '@armature/contracts';
import { ApiError, badRequest, problem } from './api-error.ts';
import { parseChat } from './chat-fields.ts';
import { parseCompletion } from './completion-fields.ts';
import { Generation } from './generation.ts';
import { invalidValue } from './fields.ts';
import type { Json } from './fields.ts';
import { Choice, Leg } from './leg.ts';
import { LIMITS } from './limits.ts';
import { ChatLogprobs, CompletionLogprobs } from './logprob-text.ts';
import type { Runtime } from './runtime.ts';
import { withHeaders } from './routing-fields.ts';
import { checkIds, checkVocabulary, refuseFormat, samplingFor, stopFor } from './sampling-fields.ts';
import type { CommonFields } from './sampling-fields.ts';
import { CHAT, COMPLETION } from './shape.ts';
import type { Shape } from './shape.ts';

/** One request as it came in. */
export interface Arrival {
  readonly exchange: HttpExchange;
  readonly requestId: string;
  readonly receivedAtMs: number;
}

interface Prompt {
  readonly tokenIds: Int32Array;
  /** Text the answer begins with (`echo`). */
  readonly echo: string;
}

interface Plan {
  readonly shape: Shape;
  readonly fields: CommonFields;
  readonly model: ModelHandle;
  readonly prompts: readonly Prompt[];
  readonly maxTokens: number;
  readonly topLogprobs: number;
}

/** Validates, encodes and starts a chat request. Throws ApiError, or what the preprocessor throws. */
export function startChat(runtime: Runtime, models: ModelDirectory, arrival: Arrival, body: Json): void {
  const parsed = parseChat(body);
  const model = modelFor(models, parsed.common.model);
  checkVocabulary(parsed.common, model.preprocessor.card.vocabSize);
  refuseFormat(parsed.common.responseFormat, model);
  const encoded = model.preprocessor.encodeChat(parsed.input);
  const maxTokens = outputBudget(model, [encoded.tokenIds], parsed.maxTokens, undefined, parsed.common.minTokens, 'messages');
  start(runtime, arrival, {
    shape: CHAT,
    fields: parsed.common,
    model,
    prompts: [{ tokenIds: encoded.tokenIds, echo: '' }],
    maxTokens,
    topLogprobs: parsed.topLogprobs,
  });
}

/** Validates, encodes and starts a text completion. Throws as `startChat`. */
export function startCompletion(runtime: Runtime, models: ModelDirectory, arrival: Arrival, body: Json): void {
  const parsed = parseCompletion(body);
  const model = modelFor(models, parsed.common.model);
  const { preprocessor } = model;
  checkVocabulary(parsed.common, preprocessor.card.vocabSize);
  refuseFormat(parsed.common.responseFormat, model);
  const prompts = parsed.prompts.map((prompt, i) => {
    if (typeof prompt === 'string') return { tokenIds: encodeText(preprocessor.encodeText(prompt)), echo: parsed.echo ? prompt : '' };
    checkIds(prompt, preprocessor.card.vocabSize, parsed.prompts.length === 1 ? 'prompt' : `prompt[${i}]`);
    return { tokenIds: prompt, echo: parsed.echo ? textOf(model, prompt) : '' };
  });
  const maxTokens = outputBudget(model, prompts.map((prompt) => prompt.tokenIds), parsed.maxTokens, LIMITS.completionTokens, parsed.common.minTokens, 'prompt');
  start(runtime, arrival, { shape: COMPLETION, fields: parsed.common, model, prompts, maxTokens, topLogprobs: parsed.topLogprobs });
}

function encodeText(encoded: EncodedPrompt): Int32Array {
  if (encoded.tokenIds.length === 0) throw badRequest('prompt', 'empty_prompt', "'prompt' has no tokens; send at least one.");
  return encoded.tokenIds;
}

function textOf(model: ModelHandle, tokenIds: Int32Array): string {
  const output = model.preprocessor.openText({ stop: [], keepSpecialTokens: true });
  let text = '';
  for (let i = 0; i < tokenIds.length; i++) text += output.push(tokenIds[i]!);
  return text + output.finish();
}

function modelFor(models: ModelDirectory, name: string): ModelHandle {
  const model = models.get(name);
  if (model === undefined) throw new ApiError(modelNotFound(name));
  return model;
}

export function modelNotFound(name: string): ReturnType<typeof problem> {
  return { ...problem(404, 'invalid_request_error', 'model_not_found', `The model '${name.slice(0, 200)}' does not exist. GET /v1/models lists those that do.`), param: 'model' };
}

/** Output tokens allowed: what was asked, else the model's or the endpoint's default, and never more than the context leaves. */
function outputBudget(model: ModelHandle, prompts: readonly Int32Array[], asked: number | undefined, fallback: number | undefined, minTokens: number, param: string): number {
  let longest = 0;
  for (const prompt of prompts) longest = Math.max(longest, prompt.length);
  const limit = model.maxModelTokens;
  const room = limit - longest;
  if (room < 1) {
    throw badRequest(param, 'context_length_exceeded', `This model's maximum context length is ${limit} tokens, prompt and output together. Your prompt has ${longest} tokens. Please shorten it.`);
  }
  if (asked !== undefined && asked > room) {
    throw badRequest(
      param,
      'context_length_exceeded',
      `This model's maximum context length is ${limit} tokens, prompt and output together. You asked for ${longest + asked} tokens (${longest} in the prompt, ${asked} in the output). Please shorten the prompt or lower max_tokens.`,
    );
  }
  const maxTokens = asked ?? Math.min(room, fallback ?? model.preprocessor.card.defaults.maxTokens ?? room);
  if (minTokens > maxTokens) throw invalidValue('min_tokens', `must be at most the maximum number of output tokens (${maxTokens}), got ${minTokens}.`);
  return maxTokens;
}

function start(runtime: Runtime, arrival: Arrival, plan: Plan): void {
  const { fields, model, shape, topLogprobs } = plan;
  const { exchange, requestId, receivedAtMs } = arrival;
  const wishes = withHeaders(fields, (name) => exchange.header(name));
  const timeoutMs = timeoutFor(runtime, exchange);
  const traceparent = childTraceparent(exchange.header('traceparent') || undefined, runtime.random);
  const metrics = runtime.metrics.model(model.parent ?? model.name);
  const id = shape.idPrefix + runtime.newId();
  const generation = new Generation({
    runtime,
    exchange,
    shape,
    preprocessor: model.preprocessor,
    metrics,
    model: fields.model,
    id,
    requestId,
    traceparent,
    stream: fields.stream,
    includeUsage: fields.includeUsage,
    topLogprobs,
    maxTokens: plan.maxTokens,
    receivedAtMs,
  });
  const textOptions = { stop: fields.stop, keepSpecialTokens: false };
  const legs = plan.prompts.map((prompt, p) => {
    const choices: Choice[] = [];
    for (let i = 0; i < fields.choices; i++) {
      const logprobs = topLogprobs < 0 ? undefined : shape === CHAT ? new ChatLogprobs() : new CompletionLogprobs(0);
      choices.push(new Choice(p * fields.choices + i, model.preprocessor.openText(textOptions), logprobs, prompt.echo));
    }
    metrics.inputTokens.inc(prompt.tokenIds.length);
    metrics.inputLength.observe(prompt.tokenIds.length);
    return new Leg(generation, choices, prompt.tokenIds.length);
  });
  exchange.onAbort(() => generation.abandon());
  generation.begin(legs, timeoutMs);

  const sampling = samplingFor(fields, model.preprocessor.card, runtime.random, topLogprobs);
  const stop: StopParams = stopFor(fields, plan.maxTokens);
  for (let p = 0; p < legs.length && !generation.over; p++) {
    const leg = legs[p]!;
    const request: InferenceRequest = {
      id: p === 0 ? generation.engineId : `${generation.engineId}-${p}`,
      promptTokenIds: plan.prompts[p]!.tokenIds,
      sampling,
      stop,
      choices: fields.choices,
      ...(fields.responseFormat === undefined ? {} : { responseFormat: fields.responseFormat }),
      deadlineMs: timeoutMs,
      ...wishes,
      traceparent,
    };
    try {
      leg.executed(model.execute(request, leg));
    } catch (error) {
      // Against the contract; without this the request would hang until its deadline.
      generation.fail(ArmatureError.from(error).toData());
    }
  }
}

/** The client's `x-request-timeout-ms`, never above the configured limit. */
function timeoutFor(runtime: Runtime, exchange: HttpExchange): number {
  const limit = runtime.config.requestTimeoutMs;
  const asked = exchange.header('x-request-timeout-ms');
  if (asked === '') return limit;
  if (!/^\d{1,10}$/.test(asked) || asked === '0') throw badRequest('x-request-timeout-ms', 'invalid_value', "'x-request-timeout-ms' must be a positive integer.");
  return Math.min(limit, Number(asked));
}
