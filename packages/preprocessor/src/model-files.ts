import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ArmatureError } from '@armature/contracts';
import type { TokenizerJson } from './tokenizer/tokenizer-json.ts';

type Json = Record<string, unknown>;

/** Contents of a Hugging Face model folder, as far as they concern text. */
export interface ModelFiles {
  readonly folder: string;
  readonly tokenizer: TokenizerJson;
  readonly tokenizerText: string;
  /** tokenizer_config.json; empty when the file is absent. */
  readonly tokenizerConfig: Json;
  readonly config: Json;
  readonly configText: string;
  /** generation_config.json; empty when the file is absent. */
  readonly generationConfig: Json;
  /** Template by name; undefined: the model has none. */
  readonly templates: ReadonlyMap<string, string> | undefined;
}

/**
 * Reads a model folder. Throws `PREPROCESSOR_FILE_MISSING` and `PREPROCESSOR_FILE_INVALID`, which name the file and what to do.
 * `templatePath`, when not empty, replaces the model's chat template.
 */
export function readModelFiles(folder: string, templatePath: string): ModelFiles {
  const tokenizerText = readRequired(folder, 'tokenizer.json', 'download it with the model; a model that only has tokenizer.model must be converted (transformers: AutoTokenizer…save_pretrained)');
  const configText = readRequired(folder, 'config.json', 'it is part of every Hugging Face model: download the folder again');
  const tokenizer = parseObject(folder, 'tokenizer.json', tokenizerText);
  checkTokenizer(folder, tokenizer);
  const tokenizerConfig = readOptionalJson(folder, 'tokenizer_config.json');
  return {
    folder,
    tokenizer: { ...tokenizer, added_tokens: tokenizer.added_tokens ?? [] } as unknown as TokenizerJson,
    tokenizerText,
    tokenizerConfig,
    config: parseObject(folder, 'config.json', configText),
    configText,
    generationConfig: readOptionalJson(folder, 'generation_config.json'),
    templates: templatePath === '' ? modelTemplates(folder, tokenizerConfig) : new Map([['default', readTemplate(templatePath)]]),
  };
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ENOTDIR');
}

function readOptional(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw new ArmatureError('PREPROCESSOR_FILE_INVALID', `${path} cannot be read: ${(error as Error).message}`, { hint: 'check the permissions of the file', cause: error, details: { file: path } });
  }
}

function readRequired(folder: string, name: string, hint: string): string {
  const text = readOptional(join(folder, name));
  if (text !== undefined) return text;
  throw new ArmatureError('PREPROCESSOR_FILE_MISSING', `model folder ${folder} has no ${name}`, { hint, details: { file: join(folder, name) } });
}

function readTemplate(path: string): string {
  const text = readOptional(path);
  if (text !== undefined) return text;
  throw new ArmatureError('PREPROCESSOR_FILE_MISSING', `chat template ${path} does not exist`, { hint: 'correct chatTemplate in the preprocessor’s config; paths are relative to the configuration file', details: { file: path } });
}

function parseObject(folder: string, name: string, text: string): Json {
  const file = join(folder, name);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    const isPointer = text.startsWith('version https://git-lfs');
    const hint = isPointer ? 'it is a Git LFS pointer: run `git lfs pull` in the model folder' : 'the file is damaged or cut off: download it again';
    throw new ArmatureError('PREPROCESSOR_FILE_INVALID', `${file} is not JSON: ${(error as Error).message}`, { hint, cause: error, details: { file } });
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Json;
  throw new ArmatureError('PREPROCESSOR_FILE_INVALID', `${file} holds ${Array.isArray(value) ? 'a list' : JSON.stringify(value).slice(0, 40)} where an object belongs`, {
    hint: 'download the file again',
    details: { file },
  });
}

function readOptionalJson(folder: string, name: string): Json {
  const text = readOptional(join(folder, name));
  return text === undefined ? {} : parseObject(folder, name, text);
}

function checkTokenizer(folder: string, tokenizer: Json): void {
  const file = join(folder, 'tokenizer.json');
  const model = tokenizer.model as Json | null | undefined;
  const missing = typeof model !== 'object' || model === null ? 'model' : typeof model.vocab !== 'object' || model.vocab === null ? 'model.vocab' : undefined;
  if (missing === undefined && (tokenizer.added_tokens === undefined || Array.isArray(tokenizer.added_tokens))) return;
  throw new ArmatureError('PREPROCESSOR_FILE_INVALID', `${file} has no usable "${missing ?? 'added_tokens'}"`, {
    hint: 'this must be the file of the fast tokenizer (Hugging Face tokenizers); save it again with a recent transformers',
    details: { file },
  });
}

/** tokenizer_config.json's chat_template (text, or named ones), or the files that newer models keep it in. */
function modelTemplates(folder: string, tokenizerConfig: Json): ReadonlyMap<string, string> | undefined {
  const own = readOptional(join(folder, 'chat_template.jinja'));
  if (own !== undefined) return new Map([['default', own]]);
  const found = tokenizerConfig.chat_template ?? readOptionalJson(folder, 'chat_template.json').chat_template;
  if (found === undefined || found === null) return undefined;
  if (typeof found === 'string') return new Map([['default', found]]);
  const templates = new Map<string, string>();
  if (Array.isArray(found)) {
    for (const entry of found as { name?: unknown; template?: unknown }[]) {
      if (typeof entry?.name === 'string' && typeof entry.template === 'string') templates.set(entry.name, entry.template);
    }
  }
  if (templates.size > 0) return templates;
  const file = join(folder, 'tokenizer_config.json');
  throw new ArmatureError('PREPROCESSOR_FILE_INVALID', `chat_template in ${file} is neither text nor a list of named templates`, {
    hint: 'correct it, or name a template file with chatTemplate in the preprocessor’s config',
    details: { file },
  });
}
