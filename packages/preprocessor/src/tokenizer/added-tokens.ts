// @hot
import type { AddedTokenJson } from './tokenizer-json.ts';

interface Candidate {
  readonly content: string;
  readonly id: number;
  /** No other added token contains this one other than at its end, so text may be cut behind it whatever follows. */
  readonly isCut: boolean;
}

/** Leftmost-longest search for added tokens in one text at a time. Linear: each starting character has its own cursor. */
export class AddedTokens {
  /** Start of the match that `find` found, -1 = none; valid until the next call. */
  start: number;
  end: number;
  id: number;
  isCut: boolean;
  /** Distinct first characters, and per character the candidates, longest first. */
  readonly #firsts: string[];
  readonly #candidates: Candidate[][];
  /** Per first character: next match at or after the last searched position (-1 none, -2 not searched). */
  readonly #next: Int32Array;
  readonly #hit: Candidate[];
  #text: string;

  constructor(tokens: readonly AddedTokenJson[]) {
    const all = [...tokens].sort((a, b) => b.content.length - a.content.length);
    const byFirst = new Map<string, Candidate[]>();
    for (const { content, id } of all) {
      const isCut = !all.some((other) => other.content !== content && other.content.indexOf(content) !== -1 && !onlyAtEnd(other.content, content));
      const list = byFirst.get(content[0]);
      if (list === undefined) byFirst.set(content[0], [{ content, id, isCut }]);
      else list.push({ content, id, isCut });
    }
    this.start = -1;
    this.end = 0;
    this.id = 0;
    this.isCut = false;
    this.#firsts = [...byFirst.keys()];
    this.#candidates = [...byFirst.values()];
    this.#next = new Int32Array(this.#firsts.length);
    this.#hit = this.#candidates.map(([longest]) => longest);
    this.#text = '';
  }

  /** Starts on a text. */
  begin(text: string): void {
    this.#text = text;
    this.#next.fill(-2);
  }

  /** Drops the reference to the text. */
  finish(): void {
    this.#text = '';
  }

  /** Finds the next match at or after `from`; true when there is one. `from` must not go back. */
  find(from: number): boolean {
    let best = -1;
    for (let i = 0; i < this.#firsts.length; i++) {
      let at = this.#next[i];
      if (at === -2 || (at !== -1 && at < from)) at = this.#search(i, from);
      if (at !== -1 && (best === -1 || at < this.#next[best])) best = i;
    }
    if (best === -1) {
      this.start = -1;
      return false;
    }
    const hit = this.#hit[best];
    this.start = this.#next[best];
    this.end = this.start + hit.content.length;
    this.id = hit.id;
    this.isCut = hit.isCut;
    return true;
  }

  #search(index: number, from: number): number {
    const text = this.#text;
    const first = this.#firsts[index];
    const candidates = this.#candidates[index];
    let at = text.indexOf(first, from);
    while (at !== -1) {
      for (let i = 0; i < candidates.length; i++) {
        if (!text.startsWith(candidates[i].content, at)) continue;
        this.#hit[index] = candidates[i];
        this.#next[index] = at;
        return at;
      }
      at = text.indexOf(first, at + 1);
    }
    this.#next[index] = -1;
    return -1;
  }
}

function onlyAtEnd(outer: string, inner: string): boolean {
  return outer.indexOf(inner) === outer.length - inner.length;
}
