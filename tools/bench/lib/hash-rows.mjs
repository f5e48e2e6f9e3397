import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { measureAll } from './measure.mjs';

const TOKENS = 8192;
/** dynamo-kv-router 1.6.1, thread CPU, recorded on the machine of docs/benchmarks.md: used only where the peer is not built. */
const RECORDED_US = { 16: 4.93, 32: 3.08, 64: 5.23, 128: 3.21 };

/**
 * Block and sequence hashes of 8,192 tokens, both in one call; copying the tokens in and the hashes out is included. The peer
 * (Rust, native XXH3) reads its tokens in place and allocates its two results; not charged to anybody: JSON, tokenizing.
 */
export async function hashRows({ root, options = {}, log }) {
  const { hashBlocks, noSalt } = await import('@armature/tokens');
  const peer = peerOf({ root, options, log });
  const tokens = Int32Array.from({ length: TOKENS }, (_, i) => Math.imul(i + 1, 0x9e3779b1) >>> 15);
  const out = { blockHashes: new Int32Array(TOKENS), sequenceHashes: new Int32Array(TOKENS) };
  const sizes = [16, 32, 64, 128];
  const cost = measureAll(Object.fromEntries(sizes.map((blockSize) => {
    const hashing = { blockSize, salt: noSalt };
    return [`b${blockSize}`, () => hashBlocks(tokens, TOKENS, hashing, out)];
  })), { rounds: 15 });
  return sizes.map((size) => ({
    name: size === 16 ? 'hash/8192-tokens' : `hash/8192-tokens/blocks-of-${size}`,
    value: cost[`b${size}`],
    unit: 'us',
    peer: peer(size),
    target: 2 * peer(size),
  }));
}

function peerOf({ root, options, log }) {
  const binary = options.hashPeer ?? process.env.DYNAMO_HASH_PEER ?? [`${root}tools/peers/dynamo-hash/target/release/dynamo-hash`, `${root}.cache/peers/target/release/dynamo-hash`].find((path) => existsSync(path));
  if (binary === undefined) {
    log('hash peer: not built (cargo build --release in tools/peers/dynamo-hash); its column is NOT of this run: recorded figures of dynamo-kv-router 1.6.1');
    return (size) => RECORDED_US[size];
  }
  log('hash peer: dynamo-kv-router 1.6.1 (native XXH3), in this run');
  const { byBlockSize } = JSON.parse(execFileSync(binary, { encoding: 'utf8' }));
  return (size) => byBlockSize[size].bothUs;
}
