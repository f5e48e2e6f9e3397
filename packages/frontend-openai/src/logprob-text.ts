// @hot
import type { Preprocessor, TokenBatch } from '@armature/contracts';
import { escapeJson, jsonBytes, jsonLogprob } from './json-text.ts';

/** Gathers the logprobs of one choice as JSON text, in the shape of the endpoint. */
export interface LogprobText {
  /** Row `row` of the batch. */
  add(preprocessor: Preprocessor, batch: TokenBatch, row: number, wanted: number): void;
  /** The `logprobs` value of what was gathered since the last call; `null` when nothing was. */
  take(): string;
}

/** `{"content":[{token, logprob, bytes, top_logprobs}],"refusal":null}`. */
export class ChatLogprobs implements LogprobText {
  #entries = '';

  add(preprocessor: Preprocessor, batch: TokenBatch, row: number, wanted: number): void {
    let tops = '';
    const count = Math.min(wanted, batch.topCount);
    for (let k = 0; k < count; k++) {
      const id = batch.topTokenIds![row * batch.topCount + k]!;
      if (id < 0) break;
      tops += (k === 0 ? '' : ',') + entry(preprocessor, id, batch.topLogprobs![row * batch.topCount + k]!) + '}';
    }
    this.#entries += (this.#entries === '' ? '' : ',') + entry(preprocessor, batch.tokenIds[row]!, batch.logprobs![row]!) + `,"top_logprobs":[${tops}]}`;
  }

  take(): string {
    if (this.#entries === '') return 'null';
    const text = `{"content":[${this.#entries}],"refusal":null}`;
    this.#entries = '';
    return text;
  }
}

function entry(preprocessor: Preprocessor, tokenId: number, logprob: number): string {
  return `{"token":"${escapeJson(preprocessor.tokenText(tokenId))}","logprob":${jsonLogprob(logprob)},"bytes":${jsonBytes(preprocessor.tokenBytes(tokenId))}`;
}

/** `{"tokens":[],"token_logprobs":[],"top_logprobs":[{}],"text_offset":[]}`; offsets count characters of the output. */
export class CompletionLogprobs implements LogprobText {
  #tokens = '';
  #values = '';
  #tops = '';
  #offsets = '';
  #offset: number;

  constructor(offset: number) {
    this.#offset = offset;
  }

  add(preprocessor: Preprocessor, batch: TokenBatch, row: number, wanted: number): void {
    const comma = this.#tokens === '' ? '' : ',';
    const text = preprocessor.tokenText(batch.tokenIds[row]!);
    const value = jsonLogprob(batch.logprobs![row]!);
    let tops = '';
    const count = Math.min(wanted, batch.topCount);
    for (let k = 0; k < count; k++) {
      const id = batch.topTokenIds![row * batch.topCount + k]!;
      if (id < 0) break;
      tops += `${k === 0 ? '' : ','}"${escapeJson(preprocessor.tokenText(id))}":${jsonLogprob(batch.topLogprobs![row * batch.topCount + k]!)}`;
    }
    this.#tokens += `${comma}"${escapeJson(text)}"`;
    this.#values += comma + value;
    this.#tops += comma + (wanted === 0 ? 'null' : `{${tops}}`);
    this.#offsets += comma + this.#offset;
    this.#offset += text.length;
  }

  take(): string {
    if (this.#tokens === '') return 'null';
    const text = `{"tokens":[${this.#tokens}],"token_logprobs":[${this.#values}],"top_logprobs":[${this.#tops}],"text_offset":[${this.#offsets}]}`;
    this.#tokens = '';
    this.#values = '';
    this.#tops = '';
    this.#offsets = '';
    return text;
  }
}
