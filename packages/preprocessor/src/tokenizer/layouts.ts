import type { AddedTokenJson, PreTokenizerJson, TokenizerJson } from './tokenizer-json.ts';

/** Pre-tokenizers that the own encoder knows. */
export type LayoutKind = 'gpt2' | 'gpt2-digits' | 'cl100k' | 'qwen2' | 'metaspace';

/** How text becomes words before merges. */
export interface Layout {
  readonly kind: LayoutKind;
  /** Text is NFC-normalised first. */
  readonly nfc: boolean;
  /** Metaspace only: U+2581 goes in front of each piece of text. */
  readonly prepend: boolean;
}

const CL100K =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const QWEN2 = CL100K.replace('\\p{N}{1,3}', '\\p{N}');

/** The layout of a tokenizer.json, undefined when any part of it is not known exactly (then a library must encode). */
export function recogniseLayout(json: TokenizerJson): Layout | undefined {
  const model = json.model;
  if (model.type !== 'BPE' || model.dropout || model.continuing_subword_prefix || model.end_of_word_suffix) return undefined;
  const normalizer = json.normalizer ?? undefined;
  const preTokenizer = json.pre_tokenizer ?? undefined;
  if (json.added_tokens.some((token) => !isPlain(token, normalizer !== undefined))) return undefined;
  if (preTokenizer === undefined) return recogniseMetaspace(json);
  const nfc = normalizer?.type === 'NFC';
  if (normalizer !== undefined && !nfc) return undefined;
  const kind = recogniseByteLevel(preTokenizer);
  return kind === undefined ? undefined : { kind, nfc, prepend: false };
}

/** Found by plain search in the text as it came. */
function isPlain(token: AddedTokenJson, hasNormalizer: boolean): boolean {
  if (token.content === '' || token.single_word || token.lstrip || token.rstrip) return false;
  return !(hasNormalizer && token.normalized);
}

function recogniseByteLevel(pre: PreTokenizerJson): LayoutKind | undefined {
  // Hugging Face's default of use_regex is true.
  if (pre.type === 'ByteLevel') return pre.use_regex !== false && !pre.add_prefix_space ? 'gpt2' : undefined;
  if (pre.type !== 'Sequence' || pre.pretokenizers?.length !== 2) return undefined;
  const [first, second] = pre.pretokenizers;
  if (second.type !== 'ByteLevel' || second.add_prefix_space) return undefined;
  if (first.type === 'Digits') return first.individual_digits && second.use_regex !== false ? 'gpt2-digits' : undefined;
  if (first.type !== 'Split' || first.behavior !== 'Isolated' || first.invert || second.use_regex !== false) return undefined;
  const regex = first.pattern?.Regex;
  return regex === CL100K ? 'cl100k' : regex === QWEN2 ? 'qwen2' : undefined;
}

/** Llama 2: normalizer [Prepend U+2581], Replace space by U+2581; no pre-tokenizer; byte fallback. */
function recogniseMetaspace(json: TokenizerJson): Layout | undefined {
  const normalizer = json.normalizer;
  if (normalizer?.type !== 'Sequence' || !json.model.byte_fallback) return undefined;
  let prepend = false;
  let replace = false;
  for (const step of normalizer.normalizers ?? []) {
    // In this order only: a Prepend after the Replace would be the same, twice the same step would not.
    if (step.type === 'Prepend' && step.prepend === '▁' && !prepend) prepend = true;
    else if (step.type === 'Replace' && step.pattern?.String === ' ' && step.content === '▁' && !replace) replace = true;
    else return undefined;
  }
  if (!replace) return undefined;
  // Without a pre-tokenizer, merging each word by itself is exact only if no entry reaches across the start of a word.
  for (const token in json.model.vocab) if (/[^▁]▁/.test(token)) return undefined;
  return { kind: 'metaspace', nfc: false, prepend };
}
