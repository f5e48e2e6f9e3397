import { readFileSync } from 'node:fs';
import { TextCodec, TextTokens } from '@armature/backend-openai';
import type { ModelCard, Preprocessor, TextOutput } from '@armature/contracts';
import { createTokenizer } from '@armature/preprocessor';
import type { Tokenizer, TokenizerJson } from '@armature/preprocessor';
import { describe, expect, it } from 'vitest';
import { root } from './support/process.ts';

// What a text-only server says, through real tokenizers: the text a frontend shows is exactly the server's, however the text was cut.
const SEED = Number(process.env['ARMATURE_SEED'] ?? 20261123);
const TEXTS = 120;
const files: Readonly<Record<string, string>> = {
  demo: 'packages/model-demo/model/tokenizer.json',
  gpt2: 'packages/preprocessor/fixtures/gpt2.tokenizer.json',
  llama2: 'packages/preprocessor/fixtures/llama2.tokenizer.json',
  llama3: 'packages/preprocessor/fixtures/llama3.tokenizer.json',
  qwen2: 'packages/preprocessor/fixtures/qwen2.tokenizer.json',
};
const parts = [
  'the of and to in is you that it he was for on are as with his they ', ' ', '  ', '    ', '\t', '\n', '\n\n', '\r\n', ' \n', '\u00a0', '\u3000', '\u200b', 'a', '.', ', ', "'s", "n't",
  'if (x) {\n  return y;\n}', '<s>', '</s>', '<|im_end|>', '<|endoftext|>', '<|eot_id|>', '<unk>', '0', '12', '98765432', '3.14', 'é', 'e\u0301', 'naïve', 'Größe', '日本語', '漢', '안녕', 'مرحبا', 'Привет',
  '😀', '👍🏽', '👨‍👩‍👧‍👦', '🇩🇪', '❤️', '𝐀', '𠮷', '\ufffd', '\ufffd\ufffd', '\ud83d', '\ude00', '▁', '\ufeff', '\u0000', '\u0001', '﷽',
];

/** Mulberry32. */
function seeded(seed: number): (bound: number) => number {
  let state = seed >>> 0;
  return (bound) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % bound;
  };
}

function randomText(next: (bound: number) => number): string {
  let text = '';
  for (let i = 1 + next(14); i > 0; i--) text += parts[next(parts.length)];
  return text;
}

function randomCuts(text: string, next: (bound: number) => number): string[] {
  const pieces: string[] = [];
  const longest = 1 + next(12);
  for (let at = 0; at < text.length; ) {
    const length = next(longest + 1); // 0: an empty delta
    pieces.push(text.slice(at, at + length));
    at += length;
  }
  return pieces;
}

function tokenizerOf(name: string, forceLibrary = false): Tokenizer {
  return createTokenizer(JSON.parse(readFileSync(`${root}${files[name]}`, 'utf8')) as TokenizerJson, { forceLibrary });
}

/** The part of a preprocessor that turns text into tokens and back. */
function preprocessorOf(tokenizer: Tokenizer): Preprocessor {
  const openText = ({ keepSpecialTokens }: { keepSpecialTokens: boolean }): TextOutput => {
    const detokenizer = tokenizer.openDetokenizer(keepSpecialTokens);
    return { push: (id) => detokenizer.push(id), finish: () => detokenizer.finish(), matchedStop: -1 };
  };
  const { before, after } = tokenizer.affixes;
  return {
    card: { vocabSize: tokenizer.size + 5 } as ModelCard, // padded, as models are
    encodeChat: () => ({ tokenIds: new Int32Array(0), reusedTokens: 0 }),
    encodeText: (text) => ({ tokenIds: Int32Array.of(...before, ...tokenizer.encode(text), ...after), reusedTokens: 0 }),
    openText,
    tokenText: (id) => tokenizer.tokenText(id),
    tokenBytes: (id) => tokenizer.tokenBytes(id),
  };
}

function shown(preprocessor: Preprocessor, ids: readonly number[]): string {
  const output = preprocessor.openText({ stop: [], keepSpecialTokens: false });
  return ids.map((id) => output.push(id)).join('') + output.finish();
}

/** All of `pieces`, and what the whole of it looks like to the client. */
function through(codec: TextCodec, pieces: readonly string[], generated: readonly number[] = []): number[] {
  const tokens = new TextTokens(codec, Int32Array.from(generated));
  return [...pieces.flatMap((piece) => [...tokens.push(piece)]), ...tokens.finish()];
}

describe.each([...Object.keys(files).map((name) => [name, false] as const), ['demo', true] as const, ['llama2', true] as const])('%s (library: %s)', (name, isLibrary) => {
  const preprocessor = preprocessorOf(tokenizerOf(name, isLibrary));
  const codec = new TextCodec(preprocessor);
  // A decoder that strips a leading space cannot show one: no server with this tokenizer sends one either.
  const strips = name === 'llama2';
  // The library, which is the emergency exit for tokenizers that Armature does not know, never gives these two characters.
  const missing = isLibrary && strips ? /[▁\ufeff]/g : /(?!)/g;

  it(`ids decode to the text, cut anywhere (seed ${SEED})`, () => {
    const next = seeded(SEED);
    for (let i = 0; i < TEXTS; i++) {
      const random = randomText(next);
      const text = (strips ? random.replace(/^[ ▁]+/, '') : random).replace(missing, '');
      const pieces = randomCuts(text, next);
      const ids = through(codec, pieces);
      expect(shown(preprocessor, ids), `seed ${SEED}, text ${i}: ${JSON.stringify(pieces)}`).toBe(text.toWellFormed());
    }
  });

  it(`goes on where another worker stopped (seed ${SEED})`, () => {
    const next = seeded(SEED + 1);
    for (let i = 0; i < TEXTS / 4; i++) {
      const [before, after] = [`x${randomText(next)}`, randomText(next)].map((text) => text.toWellFormed().replace(missing, ''));
      const made = through(codec, [before ?? '']);
      const rest = through(codec, randomCuts(after ?? '', next), made);
      expect(shown(preprocessor, [...made, ...rest]), `seed ${SEED}, text ${i}`).toBe(`${before}${after}`);
    }
  });

  it('gives back the server’s own tokens when it sends one at a time', () => {
    const text = 'The quick brown fox jumps over the lazy dog. My cat is called Biscuit, 47 years old; naïve café — 東京タワー 🙂!\nfor (let i = 0; i < 10; i++) { total += i; }';
    const own = codec.encode(text);
    const output = preprocessor.openText({ stop: [], keepSpecialTokens: false });
    const ids = through(codec, own.map((id) => output.push(id)));
    expect(shown(preprocessor, ids)).toBe(text);
    expect(ids.length / own.length).toBeLessThan(1.1);
  });
});

it('needs its check: one encoding alone shows another text (sabotage)', () => {
  const preprocessor = preprocessorOf(tokenizerOf('llama2'));
  const codec = new TextCodec(preprocessor);
  const pieces = ['Hel', 'lo <s', '>', ' wor', 'ld', '</s>!', '▁'];
  expect(shown(preprocessor, through(codec, pieces))).toBe(pieces.join(''));
  for (const encode of codec.encodings) expect(shown(preprocessor, pieces.flatMap((piece) => encode(piece) ?? []))).not.toBe(pieces.join(''));
});

it('a prompt as text: what the server encodes is what was sent', () => {
  for (const name of Object.keys(files)) {
    const preprocessor = preprocessorOf(tokenizerOf(name));
    const codec = new TextCodec(preprocessor);
    const next = seeded(SEED + 2);
    for (let i = 0; i < TEXTS; i++) {
      const { tokenIds } = preprocessor.encodeText(randomText(next).toWellFormed());
      if (tokenIds.length === 0) continue;
      expect([...preprocessor.encodeText(codec.promptText(tokenIds)).tokenIds], `${name}, seed ${SEED}, text ${i}`).toEqual([...tokenIds]);
    }
  }
});

it('ids that are no text are refused as a prompt', () => {
  const preprocessor = preprocessorOf(tokenizerOf('gpt2'));
  const codec = new TextCodec(preprocessor);
  const half = codec.encode('🙂').slice(0, 1);
  expect(() => codec.promptText(Int32Array.from(half))).toThrow(expect.objectContaining({ code: 'OPENAI_PROMPT_NOT_TEXT' }));
});
