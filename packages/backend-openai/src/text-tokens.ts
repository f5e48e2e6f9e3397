import { ArmatureError } from '@armature/contracts';
import type { TextOutput } from '@armature/contracts';
import type { TextCodec } from './text-codec.ts';

/**
 * One choice's text, as it comes in, into token ids whose decoding is exactly that text. A piece is encoded by itself: servers send the text
 * of one token at a time, which gives that token again. Each piece is decoded as the frontend will do it, before its ids are given out; one that
 * cannot be (it spells a special token, say) is cut in two.
 *
 * Held back: half of a surrogate pair, and U+FFFD at the end of a piece, which decoders may keep as unfinished.
 */
export class TextTokens {
  readonly #codec: TextCodec;
  /** Everything given out, to build the decoder again after a wrong guess. */
  readonly #ids: number[];
  #decoder: TextOutput;
  #held: string;
  /** What the decoder keeps of the output made elsewhere: part of a character. The frontend shows it with the first text from here. */
  #owed: string;
  /** The encoding that was right last. */
  #encoding: number;

  /** `generated`: output that came from elsewhere and has been shown. */
  constructor(codec: TextCodec, generated: Int32Array) {
    this.#codec = codec;
    this.#ids = [...generated];
    this.#decoder = this.#decoderBehind();
    this.#held = '';
    this.#owed = generated.length === 0 ? '' : this.#decoderBehind().finish();
    this.#encoding = 0;
  }

  /** Throws `OPENAI_TEXT_NOT_ENCODABLE`. */
  push(piece: string): readonly number[] {
    let text = this.#held + piece;
    this.#held = '';
    if (isHighSurrogate(text.charCodeAt(text.length - 1))) {
      this.#held = text.slice(-1);
      text = text.slice(0, -1);
    }
    text = text.toWellFormed();
    let end = text.length;
    while (end > 0 && text.charCodeAt(end - 1) === 0xfffd) end--;
    this.#held = text.slice(end) + this.#held;
    return end === 0 ? NONE : this.#encode(text.slice(0, end), false);
  }

  /** What was held back, at the end. */
  finish(): readonly number[] {
    const text = this.#held.toWellFormed();
    this.#held = '';
    return text === '' ? NONE : this.#encode(text, true);
  }

  #encode(text: string, isLast: boolean): readonly number[] {
    const { encodings } = this.#codec;
    for (let i = 0; i < encodings.length; i++) {
      const at = (this.#encoding + i) % encodings.length;
      const ids = encodings[at](text);
      if (ids === undefined || !this.#accepts(ids, text, isLast)) continue;
      this.#encoding = at;
      return ids;
    }
    const middle = middleOf(text);
    if (middle < text.length) return [...this.#encode(text.slice(0, middle), false), ...this.#encode(text.slice(middle), isLast)];
    const bytes = this.#codec.encodeBytes(text);
    if (bytes !== undefined && this.#accepts(bytes, text, isLast)) return bytes;
    throw new ArmatureError('OPENAI_TEXT_NOT_ENCODABLE', `no tokens of the model give the text ${JSON.stringify(text)}`, {
      hint: 'is models[].source the model that the server serves? Its tokenizer must know every character',
    });
  }

  /** Whether these ids, behind those before, show the text; if so they count as given out. */
  #accepts(ids: readonly number[], text: string, isLast: boolean): boolean {
    let shown = '';
    for (const id of ids) shown += this.#decoder.push(id);
    if (isLast) shown += this.#decoder.finish();
    if (shown !== this.#owed + text) {
      this.#decoder = this.#decoderBehind();
      return false;
    }
    this.#owed = '';
    for (const id of ids) this.#ids.push(id);
    return true;
  }

  #decoderBehind(): TextOutput {
    const decoder = this.#codec.openText();
    for (const id of this.#ids) decoder.push(id);
    return decoder;
  }
}

const NONE: readonly number[] = [];

function isHighSurrogate(unit: number): boolean {
  return unit >= 0xd800 && unit < 0xdc00;
}

/** Where to cut, between two characters; the length when there is only one. U+FFFD stays with what follows it: alone it may be held back. */
function middleOf(text: string): number {
  let at = text.length >> 1;
  while (at < text.length && (at === 0 || isHighSurrogate(text.charCodeAt(at - 1)) || text.charCodeAt(at - 1) === 0xfffd)) at++;
  return at;
}
