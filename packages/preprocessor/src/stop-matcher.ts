/**
 * Finds stop strings in a text that comes in chunks, whatever the chunks. The match that ends first wins; of those that end
 * together the longest, then the first in the list. Holds back only what could still become a stop string.
 */
export class StopMatcher {
  /** Index of the stop string that matched, -1 = none. */
  matched: number;
  readonly #stops: readonly string[];
  #held: string;

  /** Empty strings never match. */
  constructor(stops: readonly string[]) {
    this.matched = -1;
    this.#stops = stops;
    this.#held = '';
  }

  /** Text that can be shown after this chunk; after a match the text before it, then always ''. */
  push(chunk: string): string {
    if (this.matched >= 0 || chunk === '') return '';
    const held = this.#held.length;
    const text = held === 0 ? chunk : this.#held + chunk;
    let start = 0;
    let end = -1;
    for (let i = 0; i < this.#stops.length; i++) {
      const stop = this.#stops[i];
      if (stop === '') continue;
      // What was held has no whole match in it.
      const at = text.indexOf(stop, Math.max(0, held - stop.length + 1));
      if (at < 0) continue;
      const to = at + stop.length;
      if (end >= 0 && (to > end || (to === end && at >= start))) continue;
      start = at;
      end = to;
      this.matched = i;
    }
    if (end >= 0) {
      this.#held = '';
      return text.slice(0, start);
    }
    const keep = this.#openLength(text);
    this.#held = keep === 0 ? '' : text.slice(text.length - keep);
    return keep === 0 ? text : text.slice(0, text.length - keep);
  }

  /** What was held back: no stop string any more. */
  finish(): string {
    const held = this.#held;
    this.#held = '';
    return held;
  }

  /** Length of the longest end of `text` that begins a stop string. */
  #openLength(text: string): number {
    let longest = 0;
    for (let i = 0; i < this.#stops.length; i++) {
      const stop = this.#stops[i];
      for (let length = Math.min(stop.length - 1, text.length); length > longest; length--) {
        if (text.charCodeAt(text.length - length) === stop.charCodeAt(0) && text.endsWith(stop.slice(0, length))) longest = length;
      }
    }
    return longest;
  }
}
