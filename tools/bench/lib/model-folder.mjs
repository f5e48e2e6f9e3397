// A deterministic model folder for benchmarks: a 32,000-entry byte-level BPE tokenizer trained on made-up words, with a chat
// template and the words that are one token each. Made once (seconds), kept under .cache/bench.
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { seeded } from './measure.mjs';

const VERSION = 1;
const VOCABULARY = 32_000;
const WORDS = 36_000;
const SPECIAL = ['<|bos|>', '<|user|>', '<|assistant|>', '<|system|>', '<|end|>'];

/** `{ folder, words, tokenizer }`; every word of `words`, with a space before it, is one token. */
export function benchModel(log = () => {}) {
  const folder = fileURLToPath(new URL(`../../../.cache/bench/model-v${VERSION}`, import.meta.url));
  if (!existsSync(`${folder}/words.json`)) {
    log(`making the benchmark tokenizer in ${folder}`);
    write(folder);
  }
  return { folder, words: JSON.parse(readFileSync(`${folder}/words.json`, 'utf8')), tokenizer: JSON.parse(readFileSync(`${folder}/tokenizer.json`, 'utf8')) };
}

function write(folder) {
  const { vocab, merges, words } = train(makeWords());
  const temporary = `${folder}.${process.pid}`;
  mkdirSync(temporary, { recursive: true });
  const put = (name, value) => writeFileSync(`${temporary}/${name}`, JSON.stringify(value, null, name === 'tokenizer.json' ? 0 : 2));
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true };
  put('tokenizer.json', {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: SPECIAL.map((content, id) => ({ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true })),
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: byteLevel,
    model: { type: 'BPE', dropout: null, unk_token: null, continuing_subword_prefix: null, end_of_word_suffix: null, fuse_unk: false, byte_fallback: false, ignore_merges: false, vocab, merges },
  });
  put('tokenizer_config.json', {
    tokenizer_class: 'PreTrainedTokenizerFast',
    bos_token: '<|bos|>',
    eos_token: '<|end|>',
    pad_token: '<|end|>',
    model_max_length: 32_768,
    add_bos_token: false,
    clean_up_tokenization_spaces: false,
    chat_template:
      "<|bos|>{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
  });
  put('special_tokens_map.json', { bos_token: '<|bos|>', eos_token: '<|end|>', pad_token: '<|end|>' });
  put('generation_config.json', { bos_token_id: 0, eos_token_id: 4, pad_token_id: 4 });
  put('config.json', {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    vocab_size: VOCABULARY,
    hidden_size: 256,
    intermediate_size: 640,
    num_hidden_layers: 4,
    num_attention_heads: 8,
    num_key_value_heads: 2,
    head_dim: 32,
    max_position_embeddings: 32_768,
    rope_theta: 10_000,
    rms_norm_eps: 1e-5,
    hidden_act: 'silu',
    tie_word_embeddings: true,
    bos_token_id: 0,
    eos_token_id: 4,
    pad_token_id: 4,
    torch_dtype: 'float16',
  });
  put('words.json', words);
  renameSync(temporary, folder);
}

/** Distinct words of two to four syllables with frequencies like those of a language (Zipf). */
function makeWords() {
  const random = seeded(20_261_123);
  const onsets = ['', 'b', 'c', 'd', 'f', 'g', 'h', 'l', 'm', 'n', 'p', 'r', 's', 't', 'v', 'w', 'st', 'tr', 'pl', 'ch', 'sh', 'th', 'gr', 'br'];
  const nuclei = ['a', 'e', 'i', 'o', 'u', 'ai', 'ea', 'ou', 'io'];
  const codas = ['', '', '', 'n', 'r', 's', 't', 'l', 'm', 'd', 'ck', 'ng', 'nt', 'st'];
  const any = (list) => list[random.below(list.length)];
  const words = new Set();
  while (words.size < WORDS) {
    let word = '';
    for (let syllables = 2 + random.below(3); syllables > 0; syllables--) word += any(onsets) + any(nuclei) + any(codas);
    if (word.length <= 12) words.add(word);
  }
  return [...words].map((word, rank) => ({ word, count: Math.max(2, Math.floor(4e6 / (rank + 10))) }));
}

/** GPT-2's printable characters for bytes. */
function byteCharacters() {
  const characters = [];
  let next = 256;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    characters.push(String.fromCharCode(printable ? byte : next++));
  }
  return characters;
}

/** Byte-pair encoding by the book: the most frequent pair merges next (ties: the smaller pair), until the vocabulary is full. */
function train(corpus) {
  const texts = [...SPECIAL, ...byteCharacters()];
  const first = SPECIAL.length;
  // Every word behind a space (0x20), as in running text.
  const symbols = corpus.map(({ word }) => [first + 0x20, ...Buffer.from(word).map((byte) => first + byte)].map(Number));
  const counts = corpus.map(({ count }) => count);
  const pairCount = new Map();
  const pairWords = new Map();
  const heap = new PairHeap(pairCount);
  const add = (key, word, by) => {
    pairCount.set(key, (pairCount.get(key) ?? 0) + by);
    if (by > 0) {
      const list = pairWords.get(key);
      if (list === undefined) pairWords.set(key, [word]);
      else if (list.at(-1) !== word) list.push(word);
      heap.push(key);
    }
  };
  symbols.forEach((word, w) => {
    for (let i = 0; i + 1 < word.length; i++) add(word[i] * 65_536 + word[i + 1], w, counts[w]);
  });
  const merges = [];
  while (texts.length < VOCABULARY) {
    const key = heap.pop();
    if (key === undefined) break;
    const a = Math.floor(key / 65_536);
    const b = key % 65_536;
    const id = texts.length;
    texts.push(texts[a] + texts[b]);
    merges.push(`${texts[a]} ${texts[b]}`);
    for (const w of pairWords.get(key)) {
      const word = symbols[w];
      for (let i = 0; i + 1 < word.length; i++) {
        if (word[i] !== a || word[i + 1] !== b) continue;
        if (i > 0) {
          add(word[i - 1] * 65_536 + a, w, -counts[w]);
          add(word[i - 1] * 65_536 + id, w, counts[w]);
        }
        if (i + 2 < word.length) {
          add(b * 65_536 + word[i + 2], w, -counts[w]);
          add(id * 65_536 + word[i + 2], w, counts[w]);
        }
        word.splice(i, 2, id);
      }
    }
    pairCount.delete(key);
    pairWords.delete(key);
  }
  return {
    vocab: Object.fromEntries(texts.map((text, id) => [text, id])),
    merges,
    words: corpus.filter((_, w) => symbols[w].length === 1).map(({ word }) => word),
  };
}

/** Pairs by count; entries whose count has changed since are re-inserted when they come up. */
class PairHeap {
  #counts;
  #keys = [];
  #weights = [];
  constructor(counts) {
    this.#counts = counts;
  }
  push(key) {
    this.#insert(key, this.#counts.get(key));
  }
  pop() {
    while (this.#keys.length > 0) {
      const [key, weight] = this.#take();
      const now = this.#counts.get(key) ?? 0;
      if (now === weight && now > 0) return key;
      if (now > 0 && now < weight) this.#insert(key, now);
    }
    return undefined;
  }
  #before(i, j) {
    return this.#weights[i] > this.#weights[j] || (this.#weights[i] === this.#weights[j] && this.#keys[i] < this.#keys[j]);
  }
  #swap(i, j) {
    [this.#keys[i], this.#keys[j]] = [this.#keys[j], this.#keys[i]];
    [this.#weights[i], this.#weights[j]] = [this.#weights[j], this.#weights[i]];
  }
  #insert(key, weight) {
    let i = this.#keys.push(key) - 1;
    this.#weights.push(weight);
    while (i > 0 && this.#before(i, (i - 1) >> 1)) {
      this.#swap(i, (i - 1) >> 1);
      i = (i - 1) >> 1;
    }
  }
  #take() {
    const top = [this.#keys[0], this.#weights[0]];
    this.#swap(0, this.#keys.length - 1);
    this.#keys.pop();
    this.#weights.pop();
    for (let i = 0; ; ) {
      let best = i;
      for (const child of [2 * i + 1, 2 * i + 2]) if (child < this.#keys.length && this.#before(child, best)) best = child;
      if (best === i) return top;
      this.#swap(i, best);
      i = best;
    }
  }
}
