import type { Clock } from '../context.ts';
import { FinishCode } from '../inference.ts';
import type { InferenceEnd, InferenceHandle, InferenceRequest, TokenBatch, TokenSink } from '../inference.ts';
import type { ModelDirectory, ModelHandle } from '../model.ts';
import type { ChatInput, EncodedPrompt, ModelCard, Preprocessor, TextOutput, TextOutputOptions } from '../preprocessor.ts';

/** Token id = UTF-16 unit; end of sequence = 0xffff. Emulates holding back of stop strings and of half surrogate pairs. */
export const EOS = 0xffff;

class FakeText implements TextOutput {
  matchedStop = -1;
  readonly #stop: readonly string[];
  #held = '';

  constructor(options: TextOutputOptions) {
    this.#stop = options.stop;
  }

  push(tokenId: number): string {
    if (this.matchedStop >= 0 || tokenId === EOS) return '';
    this.#held += String.fromCharCode(tokenId);
    let first = -1;
    for (let i = 0; i < this.#stop.length; i++) {
      const at = this.#held.indexOf(this.#stop[i]!);
      if (at >= 0 && (first < 0 || at < first)) {
        first = at;
        this.matchedStop = i;
      }
    }
    if (first >= 0) {
      const text = this.#held.slice(0, first);
      this.#held = '';
      return text;
    }
    let keep = 0;
    for (const stop of this.#stop) for (let n = Math.min(stop.length - 1, this.#held.length); n > keep; n--) if (stop.startsWith(this.#held.slice(-n))) keep = n;
    const last = this.#held.charCodeAt(this.#held.length - 1);
    if (keep === 0 && last >= 0xd800 && last < 0xdc00) keep = 1;
    const text = this.#held.slice(0, this.#held.length - keep);
    this.#held = this.#held.slice(this.#held.length - keep);
    return text;
  }

  finish(): string {
    const text = this.#held;
    this.#held = '';
    return text.toWellFormed();
  }
}

/** One token per UTF-16 unit; the chat template is `role:content` joined by line ends. */
export class FakePreprocessor implements Preprocessor {
  card: ModelCard;
  lastInput: ChatInput | undefined = undefined;

  constructor(card: Partial<ModelCard> = {}) {
    this.card = {
      source: '/nowhere',
      architecture: 'fake',
      vocabSize: 0x10000,
      maxModelTokens: 1000,
      eosTokenIds: [EOS],
      bosTokenId: undefined,
      fingerprint: 'f00dfacef00dface',
      defaults: {},
      hasChatTemplate: true,
      ...card,
    };
  }

  encodeChat(input: ChatInput): EncodedPrompt {
    this.lastInput = input;
    return this.encodeText(input.messages.map((message) => `${message.role}:${message.content}`).join('\n'));
  }

  encodeText(text: string): EncodedPrompt {
    const tokenIds = new Int32Array(text.length);
    for (let i = 0; i < text.length; i++) tokenIds[i] = text.charCodeAt(i);
    return { tokenIds, reusedTokens: 0 };
  }

  openText(options: TextOutputOptions): TextOutput {
    return new FakeText(options);
  }

  tokenText(tokenId: number): string {
    return String.fromCharCode(tokenId).toWellFormed();
  }

  tokenBytes(tokenId: number): Uint8Array {
    return Buffer.from(this.tokenText(tokenId));
  }
}

/** A running request, for scripts: sends tokens and ends when told. */
export class FakeRun implements InferenceHandle {
  readonly request: InferenceRequest;
  readonly sink: TokenSink;
  cancels = 0;
  ended = false;
  #sent = 0;

  constructor(request: InferenceRequest, sink: TokenSink) {
    this.request = request;
    this.sink = sink;
  }

  cancel(): void {
    if (this.cancels++ > 0 || this.ended) return;
    this.end({ type: 'cancelled' });
  }

  /** Characters of `text` as tokens of one batch. */
  send(text: string, finish: FinishCode = FinishCode.None, choice = 0): void {
    const ids = [...Array(text.length).keys()].map((i) => text.charCodeAt(i));
    this.sendIds(ids, finish, choice);
  }

  sendIds(ids: readonly number[], finish: FinishCode = FinishCode.None, choice = 0): void {
    if (this.ended) return;
    this.#sent += ids.length;
    const count = ids.length;
    const top = this.request.sampling.topLogprobs;
    const marks = new Uint8Array(count);
    if (count > 0) marks[count - 1] = finish;
    const batch: TokenBatch = {
      count,
      tokenIds: Int32Array.from(ids),
      choices: this.request.choices === 1 ? undefined : new Uint8Array(count).fill(choice),
      finish: marks,
      logprobs: top < 0 ? undefined : new Float32Array(count).fill(-0.5),
      topCount: Math.max(0, top),
      topTokenIds: top <= 0 ? undefined : Int32Array.from({ length: count * top }, (_, i) => (i % top === 0 ? ids[Math.floor(i / top)]! : 97 + (i % top))),
      topLogprobs: top <= 0 ? undefined : Float32Array.from({ length: count * top }, (_, i) => (i % top === 2 ? -Infinity : -0.5 - (i % top))),
    };
    this.sink.tokens(batch);
  }

  finish(cachedTokens = 0): void {
    this.end({ type: 'finished', usage: { promptTokens: this.request.promptTokenIds.length, cachedTokens, outputTokens: this.#sent } });
  }

  end(end: InferenceEnd): void {
    if (this.ended) return;
    this.ended = true;
    this.sink.end(end);
  }
}

/** Decides what a request does; called inside `execute`. */
export type Script = (run: FakeRun) => void;

/** A model whose engine is a script. */
export class FakeModel implements ModelHandle {
  readonly name: string;
  readonly createdAtSeconds = 1_700_000_000;
  readonly preprocessor: FakePreprocessor;
  maxModelTokens: number;
  ready = true;
  script: Script;
  readonly runs: FakeRun[] = [];

  constructor(name: string, script: Script, card: Partial<ModelCard> = {}) {
    this.name = name;
    this.script = script;
    this.preprocessor = new FakePreprocessor(card);
    this.maxModelTokens = this.preprocessor.card.maxModelTokens;
  }

  isReady(): boolean {
    return this.ready;
  }

  execute(request: InferenceRequest, sink: TokenSink): InferenceHandle {
    const run = new FakeRun(request, sink);
    this.runs.push(run);
    this.script(run);
    return run;
  }
}

/** A fixed list of models. */
export class FakeDirectory implements ModelDirectory {
  readonly #models: readonly ModelHandle[];
  constructor(models: readonly ModelHandle[]) {
    this.#models = models;
  }
  list(): readonly ModelHandle[] {
    return this.#models;
  }
  get(name: string): ModelHandle | undefined {
    return this.#models.find((model) => model.name === name);
  }
}

/** Sends `text`, one token per turn of the event loop, to every choice, then finishes. */
export function speak(clock: Pick<Clock, 'defer'>, text: string, cachedTokens = 0): Script {
  return (run) => {
    const limit = run.request.stop.maxTokens;
    const said = text.slice(0, limit);
    let at = 0;
    const step = (): void => {
      if (run.ended) return;
      const last = at + 1 >= said.length;
      const finish = !last ? FinishCode.None : said.length < text.length || said.length === limit ? FinishCode.Length : FinishCode.None;
      for (let choice = 0; choice < run.request.choices; choice++) {
        run.send(said[at]!, finish, choice);
        if (last && finish === FinishCode.None) run.sendIds([EOS], FinishCode.Stop, choice);
      }
      at++;
      if (last) run.finish(cachedTokens);
      else clock.defer(step);
    };
    clock.defer(step);
  };
}
