import { ArmatureError } from '@armature/contracts';
import type { TextOutput } from '@armature/contracts';
import type { TextCodec } from './text-codec.ts';

/**
 * One choice's text, as it comes in, into token ids whose decoding is exactly that text. A piece is encoded by itself: servers send the text
 * of one token at a time, which gives that token again. Each piece is decoded as the frontend will do it, before its ids are given out.
 *
 * Held back: half of a surrogate pair, and U+FFFD at the end of a piece, which decoders may keep as unfinished.
 */
export class TextTokens {
  readonly #codec: TextCodec;
  /** Everything given out, to build the decoder again after a wrong guess. */
  readonly #ids: number[];
  #decoder: TextOutput;
  #held: string;
  /** The encoding that was right last. */
  #encoding: number;

  /** `generated`: output that came from elsewhere and has been shown. */
  constructor(codec: TextCodec, generated: Int32Array) {
    this.#codec = codec;
    this.#ids = [...generated];
    this.#decoder = this.#decoderBehind();
    this.#held = '';
    this.#encoding = 0;
  }

  /** Throws `OPENAI_TEXT_NOT_ENCODABLE`. */
  push(piece: string): readonly number[] {
    const text = this.#held + piece;
    const end = text.length - openLength(text);
    this.#held = text.slice(end);
    return this.#encode(text.slice(0, end).toWellFormed());
  }

  /** What was held back, at the end. */
  finish(): readonly number[] {
    const text = this.#held.toWellFormed();
    this.#held = '';
    return this.#encode(text, true);
  }

  #encode(text: string, isLast = false): readonly number[] {
    if (text === '') return NONE;
    const { encodings } = this.#codec;
    for (let i = 0; i < encodings.length; i++) {
      const at = (this.#encoding + i) % encodings.length;
      const ids = encodings[at](text);
      if (ids === undefined) continue;
      if (this.#decodes(ids, text, isLast)) {
        this.#encoding = at;
        for (const id of ids) this.#ids.push(id);
        return ids;
      }
      this.#decoder = this.#decoderBehind();
    }
    throw new ArmatureError('OPENAI_TEXT_NOT_ENCODABLE', `no tokens of the model give the text ${JSON.stringify(text.slice(0, 40))}`, {
      hint: 'is models[].source the model that the server serves? Its tokenizer must know every character',
    });
  }

  #decodes(ids: readonly number[], text: string, isLast: boolean): boolean {
    let shown = '';
    for (const id of ids) shown += this.#decoder.push(id);
    if (isLast) shown += this.#decoder.finish();
    return shown === text;
  }

  #decoderBehind(): TextOutput {
    const decoder = this.#codec.openText();
    for (const id of this.#ids) decoder.push(id);
    return decoder;
  }
}

const NONE: readonly number[] = [];

/** Length of the end that waits for what follows. */
function openLength(text: string): number {
  let length = 0;
  while (length < text.length && text.charCodeAt(text.length - 1 - length) === 0xfffd) length++;
  if (length > 0) return length;
  const last = text.charCodeAt(text.length - 1);
  return last >= 0xd800 && last < 0xdc00 ? 1 : 0;
}
