import { decisionRows } from './lib/decision-rows.mjs';
import { hashRows } from './lib/hash-rows.mjs';
import { loadRows } from './lib/load-rows.mjs';
import { indexRows } from './lib/router-index.mjs';

export const description = 'KV index, hashing, load accounting and the whole routing decision, 64 workers (CPU time; network and event decoding are not in it)';
export const packages = ['router-kv', 'serving', 'tokens'];

export async function run({ options, root, log }) {
  const { KvIndex, OverlapColumns } = await import('@armature/router-kv');
  const index = await indexRows({ KvIndex, OverlapColumns }, { root, options, log });
  return [...index, ...(await hashRows({ root, options, log })), ...(await loadRows()), ...(await decisionRows())];
}
