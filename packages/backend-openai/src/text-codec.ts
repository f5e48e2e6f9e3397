import { ArmatureError } from '@armature/contracts';
import type { Preprocessor, TextOutput } from '@armature/contracts';

/** A way to turn a piece of text, in the middle of an output, into token ids; undefined: does not apply to this text. */
type Encoding = (text: string) => readonly number[] | undefined;

/** Texts in front of which a piece is encoded where the encoder adds something to the beginning (SentencePiece's space). */
const ANCHORS = ['\n', 'a', '.'];
/** Longest vocabulary entry looked for, in bytes. */
const MAX_ENTRY_BYTES = 32;

/**
 * Text ⇄ token ids of one model, as far as a preprocessor shows them. Nobody else promises that the ids of a piece of text, put behind other ids,
 * give that text again: the encodings here are candidates, to be tried in order and checked by decoding.
 */
export class TextCodec {
  readonly encodings: readonly Encoding[];
  readonly #preprocessor: Preprocessor;
  /** What the encoder puts in front of a prompt (BOS), and behind it. */
  readonly #before: readonly number[];
  readonly #after: number;
  #entries: ReadonlyMap<string, number> | undefined;

  constructor(preprocessor: Preprocessor) {
    this.#preprocessor = preprocessor;
    const empty = preprocessor.encodeText('').tokenIds;
    const some = preprocessor.encodeText('a').tokenIds;
    let before = 0;
    while (before < empty.length && empty[before] === some[before]) before++;
    this.#before = [...empty.subarray(0, before)];
    this.#after = empty.length - before;
    this.#entries = undefined;
    this.encodings = [(text) => this.encode(text), ...ANCHORS.map((anchor): Encoding => (text) => this.#encodeBehind(anchor, text))];
  }

  /** A decoder as a frontend opens it. */
  openText(): TextOutput {
    return this.#preprocessor.openText({ stop: [], keepSpecialTokens: false });
  }

  /**
   * A prompt as text, for servers that take no token ids: the one whose encoding is these ids, if there is one. What the encoder puts in front is left out,
   * as the server's own does it again. Throws `OPENAI_PROMPT_NOT_TEXT`: the ids are not those of a text.
   */
  promptText(tokenIds: Int32Array): string {
    const from = this.#before.length > 0 && this.#before.every((id, i) => tokenIds[i] === id) ? this.#before.length : 0;
    const ids = tokenIds.subarray(from);
    const text = this.#decode(ids);
    if (this.#encodesTo(text, ids)) return text;
    // Encoders that add a space to the beginning of a text do so behind each special token, too.
    const other = this.#decodeParts(ids);
    if (this.#encodesTo(other, ids)) return other;
    if (!text.includes('\ufffd')) return text; // another spelling of the same text
    throw new ArmatureError('OPENAI_PROMPT_NOT_TEXT', 'the prompt’s token ids are not those of a text, and the server takes only text', { hint: 'send the prompt as text, or use a server that takes token ids' });
  }

  /** Id of the one token with this text, as logprobs name tokens; -1: it is none, or several. */
  tokenIdOf(text: string): number {
    for (const encode of this.encodings) {
      const ids = encode(text);
      if (ids?.length === 1 && this.#preprocessor.tokenText(ids[0]) === text) return ids[0];
    }
    return -1;
  }

  /** Ids of a text by itself, without what belongs to a whole prompt. */
  encode(text: string): number[] {
    const { tokenIds } = this.#preprocessor.encodeText(text);
    return [...tokenIds.subarray(this.#before.length, tokenIds.length - this.#after)];
  }

  #encodesTo(text: string, ids: Int32Array): boolean {
    const { tokenIds } = this.#preprocessor.encodeText(text);
    const from = this.#before.length;
    if (tokenIds.length - from - this.#after !== ids.length) return false;
    for (let i = 0; i < ids.length; i++) if (tokenIds[from + i] !== ids[i]) return false;
    return true;
  }

  #decode(ids: Int32Array, keepSpecialTokens = true): string {
    const output = this.#preprocessor.openText({ stop: [], keepSpecialTokens });
    let text = '';
    for (const id of ids) text += output.push(id);
    return text + output.finish();
  }

  /** Decoded anew behind every special token. */
  #decodeParts(ids: Int32Array): string {
    let text = '';
    let from = 0;
    for (let i = 0; i <= ids.length; i++) {
      const one = ids.subarray(i, i + 1);
      if (i < ids.length && (this.#decode(one) === '' || this.#decode(one, false) !== '')) continue;
      text += this.#decode(ids.subarray(from, i)) + this.#decode(one);
      from = i + 1;
    }
    return text;
  }

  #encodeBehind(anchor: string, text: string): number[] | undefined {
    const alone = this.encode(anchor);
    const ids = this.encode(anchor + text);
    return alone.every((id, i) => ids[i] === id) ? ids.slice(alone.length) : undefined;
  }

  /** The vocabulary's entries with these bytes, the longest first: for characters that the encoder takes for another (SentencePiece's `▁`). */
  encodeBytes(text: string): number[] | undefined {
    const entries = (this.#entries ??= this.#readVocabulary());
    const bytes = Buffer.from(text).toString('latin1');
    const ids: number[] = [];
    for (let at = 0; at < bytes.length; ) {
      let length = Math.min(MAX_ENTRY_BYTES, bytes.length - at);
      let id = entries.get(bytes.slice(at, at + length));
      while (id === undefined && --length > 0) id = entries.get(bytes.slice(at, at + length));
      if (id === undefined) return undefined;
      ids.push(id);
      at += length;
    }
    return ids;
  }

  /** Bytes (as latin1) → id of every token that is shown as text. Read when the first text needs it. */
  #readVocabulary(): Map<string, number> {
    const entries = new Map<string, number>();
    for (let id = 0; id < this.#preprocessor.card.vocabSize; id++) {
      const bytes = Buffer.from(this.#preprocessor.tokenBytes(id)).toString('latin1');
      if (bytes === '' || bytes.length > MAX_ENTRY_BYTES || entries.has(bytes)) continue;
      // Special tokens are not shown. A decoder may strip the first space of a text, which is no reason to leave it out.
      const output = this.openText();
      if (output.push(id) + output.finish() !== '' || bytes === ' ') entries.set(bytes, id);
    }
    return entries;
  }
}
