import { ArmatureError } from '@armature/contracts';
import type { Clock, Logger, ModelCard } from '@armature/contracts';
import type { OpenAiServerConfig } from './config.ts';
import { extensionsOf } from './dialect.ts';
import type { Dialect } from './dialect.ts';
import { refusal, unreachable } from './problems.ts';
import type { Upstream, WholeAnswer } from './upstream.ts';
import { jsonObject, parseChunk, tokenIdOf } from './wire.ts';
import type { CompletionChunk } from './wire.ts';

/** What the server says of its model. */
export interface ServedModel {
  readonly id: string;
  readonly ownedBy: string;
  /** 0 = not said. */
  readonly maxModelTokens: number;
}

export interface NegotiationOptions {
  readonly config: OpenAiServerConfig;
  readonly upstream: Upstream;
  readonly clock: Clock;
  readonly log: Logger;
  readonly card: ModelCard;
  /** Two ordinary tokens of the model, and their text. */
  readonly sample: { readonly tokenIds: readonly number[]; readonly text: string };
  readonly signal: AbortSignal;
}

const RETRY_MS = 250;
/** One question, how to ask it, and what its answer would mean. */
interface Attempt {
  readonly promptAs: Dialect['promptAs'];
  readonly extra: Readonly<Record<string, unknown>>;
}
const namesIds = { return_token_ids: true, return_tokens_as_token_ids: true, logprobs: 1 };

/** Finds out, at start, which model a server has and how it wants to be spoken to. Waits for one that is still loading. */
export class Negotiation {
  readonly #options: NegotiationOptions;
  readonly #deadlineMs: number;

  constructor(options: NegotiationOptions) {
    this.#options = options;
    this.#deadlineMs = options.clock.nowMs() + options.config.startTimeoutMs;
  }

  /** Throws `OPENAI_UNREACHABLE`, `OPENAI_UNAUTHORIZED`, `OPENAI_NOT_FOUND`, `OPENAI_ANSWER_INVALID`, `OPENAI_MODEL_UNKNOWN`, … */
  async model(): Promise<ServedModel> {
    const { config } = this.#options;
    const { status, text } = await this.#ask('/models', undefined, (found) => found === 404 || found === 405);
    if (status !== 200) {
      if (config.model === '' || config.canary === 'models') throw new ArmatureError('OPENAI_NOT_FOUND', `${config.baseUrl}/models: the server answered ${status}`, { hint: 'baseUrl usually ends in /v1; for a server without /models set model, and canary: completion' });
      return { id: config.model, ownedBy: '', maxModelTokens: 0 };
    }
    const models = modelsIn(text);
    if (models === undefined) throw new ArmatureError('OPENAI_ANSWER_INVALID', `${config.baseUrl}/models is not a list of models`, { hint: 'is engine.config.baseUrl an OpenAI-compatible API?' });
    const model = config.model === '' ? models[0] : models.find(({ id }) => id === config.model);
    if (model !== undefined) return model;
    throw new ArmatureError('OPENAI_MODEL_UNKNOWN', `${config.baseUrl} does not serve "${config.model}"`, { hint: `it serves: ${models.map(({ id }) => id).join(', ') || 'nothing'}` });
  }

  /** Asks for one token, in the best form first; a server that answers 400 or 422 is asked in a plainer one. */
  async dialect(model: ServedModel): Promise<Dialect> {
    const { config, log } = this.#options;
    const extensions = extensionsOf(config, model.ownedBy);
    const attempts: Attempt[] = [];
    if (config.prompt !== 'text') attempts.push({ promptAs: 'tokens', extra: namesIds }, { promptAs: 'tokens', extra: {} });
    if (config.prompt !== 'tokens') attempts.push({ promptAs: 'text', extra: namesIds }, { promptAs: 'text', extra: {} });
    let last = '';
    for (const attempt of attempts) {
      const idsFrom = await this.#attempt(model.id, attempt);
      if (idsFrom.refused === undefined) {
        log.info('found how the server is spoken to', { baseUrl: config.baseUrl, model: model.id, server: model.ownedBy, promptAs: attempt.promptAs, idsFrom: idsFrom.found, extensions: [...extensions].join(' ') });
        return { promptAs: attempt.promptAs, idsFrom: idsFrom.found, extensions };
      }
      last = idsFrom.refused;
    }
    throw new ArmatureError('OPENAI_PROMPT_REFUSED', `${config.baseUrl} does not complete a prompt of one token: ${last}`, { hint: config.prompt === 'tokens' ? 'set engine.config.prompt: auto' : 'does the server have /completions, and a model for it?' });
  }

  async #attempt(model: string, { promptAs, extra }: Attempt): Promise<{ readonly refused: string } | { readonly refused: undefined; readonly found: Dialect['idsFrom'] }> {
    const { sample, card } = this.#options;
    const body = { model, prompt: promptAs === 'tokens' ? sample.tokenIds : sample.text, max_tokens: 1, temperature: 0, ...extra };
    const { status, text } = await this.#ask('/completions', body, (found) => found === 400 || found === 422);
    if (status !== 200) return { refused: refusal(status, text).message };
    const chunk = parseChunk(text);
    // A server that makes text of the list ("[1,2]") has more tokens than it was sent; a BOS of its own is all right.
    const counted = chunk.usage?.prompt_tokens ?? 0;
    if (promptAs === 'tokens' && counted > sample.tokenIds.length + 1) return { refused: `it made ${counted} prompt tokens of ${sample.tokenIds.length}` };
    return { refused: undefined, found: idsFrom(chunk, card.vocabSize) };
  }

  /** Until there is an answer that says something: 200, or a status that `isAnswer`. */
  async #ask(path: string, body: unknown, isAnswer: (status: number) => boolean): Promise<WholeAnswer> {
    const { config, upstream, clock, signal } = this.#options;
    for (;;) {
      signal.throwIfAborted();
      let problem: ArmatureError;
      try {
        const timeoutMs = Math.min(config.probeTimeoutMs, Math.max(RETRY_MS, this.#deadlineMs - clock.nowMs()));
        const answer = await upstream.ask(path, timeoutMs, body);
        if (answer.status === 200 || isAnswer(answer.status)) return answer;
        problem = refusal(answer.status, answer.text);
        if (!mayPass(answer.status)) throw problem;
      } catch (error) {
        signal.throwIfAborted();
        if (ArmatureError.is(error)) throw error;
        problem = unreachable(config.baseUrl, error);
      }
      const waitMs = Math.min(RETRY_MS, this.#deadlineMs - clock.nowMs());
      if (waitMs <= 0) throw problem;
      await clock.sleep(waitMs, signal);
    }
  }
}

/** A server that loads its model, or a gateway before it, answers so. */
function mayPass(status: number): boolean {
  return status >= 500 || status === 408 || status === 429;
}

function idsFrom(chunk: CompletionChunk, vocabSize: number): Dialect['idsFrom'] {
  const choice = chunk.choices?.[0];
  const ids = choice?.token_ids;
  if (Array.isArray(ids) && ids.length > 0) {
    if (ids.every((id: unknown) => typeof id === 'number' && id >= 0 && id < vocabSize)) return 'ids';
    throw new ArmatureError('OPENAI_MODEL_UNKNOWN', `the server made token ${String(ids[0])}; the model here has ${vocabSize}`, { hint: 'models[].source must be the model that the server serves' });
  }
  const names = choice?.logprobs?.tokens ?? [];
  return names.length > 0 && names.every((name) => tokenIdOf(name) >= 0) ? 'logprobs' : 'text';
}

function modelsIn(text: string): readonly ServedModel[] | undefined {
  const { data } = (jsonObject(text) ?? {}) as { data?: unknown };
  if (!Array.isArray(data)) return undefined;
  const models: ServedModel[] = [];
  for (const entry of data as readonly ({ id?: unknown; owned_by?: unknown; max_model_len?: unknown } | null)[]) {
    if (typeof entry?.id !== 'string') return undefined;
    const { owned_by: ownedBy, max_model_len: longest } = entry;
    models.push({ id: entry.id, ownedBy: typeof ownedBy === 'string' ? ownedBy : '', maxModelTokens: typeof longest === 'number' && Number.isInteger(longest) && longest > 0 ? longest : 0 });
  }
  return models;
}
