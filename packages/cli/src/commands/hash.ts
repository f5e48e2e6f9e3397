import { ArmatureError } from '@armature/contracts';
import { hashBlocks, hashToHex, saltHash } from '@armature/tokens';

export interface HashCommandOptions {
  readonly blockSize: string;
  readonly salt?: string;
  readonly lora?: string;
}

export interface HashReport {
  /** 16 digits per complete block. */
  readonly blockHashes: readonly string[];
  readonly sequenceHashes: readonly string[];
}

const MAX_TOKEN = 0xffff_ffff;

/** `armature hash --block-size N [--salt S] [--lora L] < tokens.json`: the hashes Dynamo computes for these tokens. */
export async function hash(options: HashCommandOptions, input: AsyncIterable<Uint8Array | string> = process.stdin): Promise<void> {
  const blockSize = parseBlockSize(options.blockSize); // before it waits for input
  const chunks: Uint8Array[] = [];
  for await (const chunk of input) chunks.push(typeof chunk === 'string' ? Buffer.from(chunk) : chunk);
  const report = hashTokens(Buffer.concat(chunks).toString('utf8'), blockSize, options);
  process.stdout.write(`${JSON.stringify(report)}\n`);
}

export function hashTokens(text: string, blockSize: number, salts: { readonly salt?: string; readonly lora?: string } = {}): HashReport {
  const tokens = parseTokens(text);
  const blocks = Math.floor(tokens.length / blockSize);
  const out = { blockHashes: new Int32Array(blocks * 2), sequenceHashes: new Int32Array(blocks * 2) };
  hashBlocks(tokens, tokens.length, { blockSize, salt: saltHash({ cacheSalt: salts.salt ?? '', lora: salts.lora ?? '' }) }, out);
  const hexes = (words: Int32Array): string[] => Array.from({ length: blocks }, (_, i) => hashToHex(words[i * 2]!, words[i * 2 + 1]!));
  return { blockHashes: hexes(out.blockHashes), sequenceHashes: hexes(out.sequenceHashes) };
}

export function parseBlockSize(text: string): number {
  const value = /^\d+$/.test(text) ? Number(text) : 0;
  if (value >= 1 && Number.isSafeInteger(value)) return value;
  throw new ArmatureError('USAGE_BLOCK_SIZE_INVALID', `--block-size ${text}: not a whole number from 1`, { hint: 'use the block size of the engine, for example --block-size 16' });
}

/** Words as the hashes read them: ids above 2^31 have their upper bit in the sign. */
function parseTokens(text: string): Int32Array {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw invalid(`standard input is not JSON: ${(error as Error).message}`);
  }
  if (!Array.isArray(value)) throw invalid('standard input is not a JSON array');
  const tokens = new Int32Array(value.length);
  for (const [i, id] of (value as unknown[]).entries()) {
    if (typeof id !== 'number' || !Number.isInteger(id) || id < 0 || id > MAX_TOKEN) {
      throw invalid(`element ${i} is ${shown(id)}, not a token id from 0 to ${MAX_TOKEN}`);
    }
    tokens[i] = id;
  }
  return tokens;
}

const shown = (value: unknown): string => (JSON.stringify(value) ?? 'nothing').slice(0, 60);

function invalid(message: string): ArmatureError {
  return new ArmatureError('USAGE_TOKENS_INVALID', message, { hint: "write token ids: echo '[1, 2, 3]' | armature hash --block-size 1" });
}
