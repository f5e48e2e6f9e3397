import { xxh3 } from './xxh3.ts';
import type { U64 } from './words.ts';

/** Seed of block hashes: separates tenants (cache salt) and LoRA adapters. */
export type SaltHash = U64;

const BASE = 1337;
const encoder = new TextEncoder();

function addText(salt: U64, text: string, seed: number): U64 {
  const hash = xxh3(encoder.encode(text), seed, 0);
  const lo = (salt.lo >>> 0) + (hash.lo >>> 0);
  return { lo: lo | 0, hi: (salt.hi + hash.hi + (lo > 0xffffffff ? 1 : 0)) | 0 };
}

/** Salt of requests without cache salt and adapter. */
export const noSalt: SaltHash = Object.freeze({ lo: BASE, hi: 0 });

/**
 * Dynamo's salt hash: 1337 + (lora ? XXH3_64(lora, 0) : 0) + (cacheSalt ? XXH3_64(cacheSalt, 1) : 0), modulo 2^64.
 * The empty string counts as absent.
 */
export function saltHash(parts: { readonly cacheSalt?: string; readonly lora?: string }): SaltHash {
  let salt = noSalt;
  if (parts.lora) salt = addText(salt, parts.lora, 0);
  if (parts.cacheSalt) salt = addText(salt, parts.cacheSalt, 1);
  return salt;
}
