import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { objectOf, parseJson } from './lossless-json.ts';
import type { JsonValue } from './lossless-json.ts';

/** What the checkpoint says of limits and of where sequences end; 0 = not said. */
export interface ModelEnds {
  readonly eosTokenIds: ReadonlySet<number>;
  readonly vocabSize: number;
  readonly maxModelTokens: number;
}

/** From `config.json` and `generation_config.json` of the model's folder, as far as they are there. */
export function readModelEnds(folder: string): ModelEnds {
  const config = fieldsOf(join(folder, 'config.json'));
  const generation = fieldsOf(join(folder, 'generation_config.json'));
  const eos = generation['eos_token_id'] ?? config['eos_token_id'];
  const ids = (Array.isArray(eos) ? (eos as readonly JsonValue[]) : [eos]).filter((id): id is number => typeof id === 'number');
  return { eosTokenIds: new Set(ids), vocabSize: count(config['vocab_size']), maxModelTokens: count(config['max_position_embeddings']) };
}

function count(value: JsonValue | undefined): number {
  return typeof value === 'number' && Number.isInteger(value) && value > 0 ? value : 0;
}

function fieldsOf(file: string): Readonly<Record<string, JsonValue>> {
  try {
    return objectOf(parseJson(readFileSync(file, 'utf8'))) ?? {};
  } catch {
    return {}; // the preprocessor of the model says what is wrong with it
  }
}
