import { indexRows } from './lib/router-index.mjs';

export const description = 'KV prefix index: 1 M blocks, 64 workers, queries of 512 blocks (CPU time); --curves for more sizes';
export const packages = ['router-kv', 'tokens'];

export async function run({ options, root, log }) {
  return indexRows(await import('@armature/router-kv'), { options, root, log });
}
