import { ArmatureError } from '@armature/contracts';

export type JsonValue = null | boolean | number | bigint | string | readonly JsonValue[] | { readonly [key: string]: JsonValue };

const MAX_DEPTH = 64;
/** Integers of more digits may not fit a double. */
const SAFE_DIGITS = 15;
const SPECIAL: Readonly<Record<string, string>> = { '"': '"', '\\': '\\', '/': '/', b: '\b', f: '\f', n: '\n', r: '\r', t: '\t' };

/**
 * JSON as JSON.parse reads it, but integers that a double cannot hold come as `bigint`: TensorRT-LLM's block hashes and request ids have 64 bits, and
 * JSON.parse would round them without a word. Throws `TRTLLM_ANSWER_INVALID`.
 */
export function parseJson(text: string): JsonValue {
  return new Parser(text).whole();
}

/** The inverse of `parseJson`; also accepts `undefined` fields, which are left out. */
export function stringifyJson(value: unknown): string {
  if (typeof value === 'bigint') return value.toString();
  if (Array.isArray(value)) return `[${value.map((item) => stringifyJson(item)).join(',')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value) ?? 'null';
  const fields = Object.entries(value).filter(([, field]) => field !== undefined);
  return `{${fields.map(([key, field]) => `${JSON.stringify(key)}:${stringifyJson(field)}`).join(',')}}`;
}

/** The fields of a JSON object, or undefined for anything else. */
export function objectOf(value: unknown): Readonly<Record<string, JsonValue>> | undefined {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Readonly<Record<string, JsonValue>>) : undefined;
}

class Parser {
  readonly #text: string;
  #at: number;
  #depth: number;

  constructor(text: string) {
    this.#text = text;
    this.#at = 0;
    this.#depth = 0;
  }

  whole(): JsonValue {
    const value = this.#value();
    this.#space();
    return this.#at === this.#text.length ? value : this.#fail();
  }

  #value(): JsonValue {
    switch (this.#space()) {
      case 0x7b:
        return this.#object();
      case 0x5b:
        return this.#array();
      case 0x22:
        return this.#string();
      case 0x74:
        return this.#word('true', true);
      case 0x66:
        return this.#word('false', false);
      case 0x6e:
        return this.#word('null', null);
      default:
        return this.#number();
    }
  }

  #object(): JsonValue {
    const fields: Record<string, JsonValue> = {};
    this.#enter();
    if (this.#space() === 0x7d) return this.#leave(fields);
    for (;;) {
      if (this.#space() !== 0x22) return this.#fail();
      const key = this.#string();
      if (this.#space() !== 0x3a) return this.#fail();
      this.#at++;
      const value = this.#value();
      if (key === '__proto__') Object.defineProperty(fields, key, { value, enumerable: true });
      else fields[key] = value;
      const next = this.#space();
      if (next === 0x7d) return this.#leave(fields);
      if (next !== 0x2c) return this.#fail();
      this.#at++;
    }
  }

  #array(): JsonValue {
    const items: JsonValue[] = [];
    this.#enter();
    if (this.#space() === 0x5d) return this.#leave(items);
    for (;;) {
      items.push(this.#value());
      const next = this.#space();
      if (next === 0x5d) return this.#leave(items);
      if (next !== 0x2c) return this.#fail();
      this.#at++;
    }
  }

  #string(): string {
    const start = ++this.#at;
    const text = this.#text;
    for (let at = start; at < text.length; at++) {
      const code = text.charCodeAt(at);
      if (code === 0x22) {
        this.#at = at + 1;
        return text.slice(start, at);
      }
      if (code === 0x5c) return this.#escaped(start, at);
      if (code < 0x20) break;
    }
    return this.#fail();
  }

  #escaped(start: number, first: number): string {
    const text = this.#text;
    let out = text.slice(start, first);
    for (let at = first; at < text.length; at++) {
      const char = text[at];
      if (char === '"') {
        this.#at = at + 1;
        return out;
      }
      if (char < ' ') break;
      if (char !== '\\') {
        out += char;
        continue;
      }
      const kind = text[++at];
      const hex = text.slice(at + 1, at + 5);
      if (kind === 'u' && /^[\da-fA-F]{4}$/.test(hex)) {
        out += String.fromCharCode(Number.parseInt(hex, 16));
        at += 4;
      } else if (kind !== undefined && kind in SPECIAL) out += SPECIAL[kind];
      else break;
    }
    return this.#fail();
  }

  #number(): number | bigint {
    const text = this.#text;
    const start = this.#at;
    let at = start;
    let value = 0;
    if (text.charCodeAt(at) === 0x2d) at++;
    const digits = at;
    for (let code = text.charCodeAt(at); code >= 0x30 && code <= 0x39; code = text.charCodeAt(++at)) value = value * 10 + code - 0x30;
    const count = at - digits;
    const next = text.charCodeAt(at);
    if (count === 0 || (count > 1 && text.charCodeAt(digits) === 0x30)) return this.#fail();
    if (next === 0x2e || next === 0x65 || next === 0x45) return this.#fraction(start);
    this.#at = at;
    if (count <= SAFE_DIGITS) return digits > start ? -value : value;
    const exact = BigInt(text.slice(start, at));
    return exact >= Number.MIN_SAFE_INTEGER && exact <= Number.MAX_SAFE_INTEGER ? Number(exact) : exact;
  }

  #fraction(start: number): number {
    const match = /-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
    match.lastIndex = start;
    const found = match.exec(this.#text)?.[0] ?? '';
    this.#at = start + found.length;
    return Number(found);
  }

  #word<T>(word: string, value: T): T {
    if (!this.#text.startsWith(word, this.#at)) return this.#fail();
    this.#at += word.length;
    return value;
  }

  #enter(): void {
    this.#at++;
    if (++this.#depth > MAX_DEPTH) this.#fail();
  }

  #leave<T>(value: T): T {
    this.#at++;
    this.#depth--;
    return value;
  }

  /** Code of the next character that is no white space; NaN at the end. */
  #space(): number {
    for (;;) {
      const code = this.#text.charCodeAt(this.#at);
      if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return code;
      this.#at++;
    }
  }

  #fail(): never {
    const near = JSON.stringify(this.#text.slice(Math.max(0, this.#at - 10), this.#at + 30));
    throw new ArmatureError('TRTLLM_ANSWER_INVALID', `the answer is no JSON at character ${this.#at}: ${near}`, {
      retryable: true,
      hint: 'is engine.config.baseUrl a trtllm-serve server, without a proxy that changes answers?',
    });
  }
}
