/** The parts of a Hugging Face tokenizer.json that are read. Everything else is ignored or left to the library. */
export interface TokenizerJson {
  readonly added_tokens: readonly AddedTokenJson[];
  readonly normalizer?: NormalizerJson | null;
  readonly pre_tokenizer?: PreTokenizerJson | null;
  readonly post_processor?: PostProcessorJson | null;
  readonly decoder?: DecoderJson | null;
  readonly model: ModelJson;
}

export interface AddedTokenJson {
  readonly id: number;
  readonly content: string;
  readonly special?: boolean;
  readonly single_word?: boolean;
  readonly lstrip?: boolean;
  readonly rstrip?: boolean;
  readonly normalized?: boolean;
}

interface PatternJson {
  readonly String?: string;
  readonly Regex?: string;
}

export interface NormalizerJson {
  readonly type: string;
  readonly normalizers?: readonly NormalizerJson[];
  readonly prepend?: string;
  readonly pattern?: PatternJson;
  readonly content?: string;
}

export interface PreTokenizerJson {
  readonly type: string;
  readonly pretokenizers?: readonly PreTokenizerJson[];
  readonly add_prefix_space?: boolean;
  readonly use_regex?: boolean;
  readonly individual_digits?: boolean;
  readonly pattern?: PatternJson;
  readonly behavior?: string;
  readonly invert?: boolean;
}

export interface PostProcessorJson {
  readonly type: string;
  readonly processors?: readonly PostProcessorJson[];
  readonly single?: readonly { readonly SpecialToken?: { readonly id: string }; readonly Sequence?: unknown }[];
  readonly special_tokens?: Readonly<Record<string, { readonly ids: readonly number[] }>>;
}

export interface DecoderJson {
  readonly type: string;
  readonly decoders?: readonly DecoderJson[];
  readonly pattern?: PatternJson;
  readonly content?: string;
  readonly start?: number;
  readonly stop?: number;
}

export interface ModelJson {
  readonly type?: string;
  readonly vocab: Readonly<Record<string, number>>;
  readonly merges?: readonly (string | readonly [string, string])[];
  readonly dropout?: number | null;
  readonly unk_token?: string | null;
  readonly continuing_subword_prefix?: string | null;
  readonly end_of_word_suffix?: string | null;
  readonly fuse_unk?: boolean;
  readonly byte_fallback?: boolean;
  readonly ignore_merges?: boolean;
}
