import { U64Map } from '@armature/tokens';
import type { Clock } from '@armature/contracts';
import { CHAIN_HEADER, decodeChain, objectKey } from './format.ts';
import type { S3Client } from './s3-client.ts';
import { S3Failure } from './s3-failure.ts';
import { Generations } from './generations.ts';

export interface DirectoryOptions {
  readonly client: S3Client;
  readonly folder: string;
  readonly blockBytes: number;
  readonly clock: Clock;
  /** How long "not there" is believed. */
  readonly missingTtlMs: number;
}

/** Sequence hashes of an object; `missing`; or `unreadable`: something else lies under its name. */
export type ObjectChain = Int32Array | 'missing' | 'unreadable';

const MISSING_NAMES = 65_536;

/** Which objects there are: one HEAD per name, asked once however many want to know. */
export class Directory {
  readonly #options: DirectoryOptions;
  readonly #missing: Generations;
  readonly #asking: U64Map;
  readonly #answers: Map<number, Promise<ObjectChain>>;
  #nextId: number;
  #rotatedMs: number;
  /** HEAD requests. */
  asked: number;

  constructor(options: DirectoryOptions) {
    this.#options = options;
    this.#missing = new Generations(MISSING_NAMES);
    this.#asking = new U64Map();
    this.#answers = new Map();
    this.#nextId = 0;
    this.#rotatedMs = options.clock.nowMs();
    this.asked = 0;
  }

  /** Asked a moment ago and not there. */
  isMissing(lo: number, hi: number): boolean {
    const nowMs = this.#options.clock.nowMs();
    if (nowMs - this.#rotatedMs >= this.#options.missingTtlMs) {
      this.#missing.rotate();
      if (nowMs - this.#rotatedMs >= this.#options.missingTtlMs * 2) this.#missing.rotate();
      this.#rotatedMs = nowMs;
    }
    return this.#missing.get(lo, hi) !== -1;
  }

  exists(lo: number, hi: number): void {
    this.#missing.delete(lo, hi);
  }

  /** The object that begins with this block. Rejects with S3Failure. Who comes later gets the answer to the first, by the first's deadline. */
  ask(lo: number, hi: number, deadlineMs: number): Promise<ObjectChain> {
    const running = this.#answers.get(this.#asking.get(lo, hi));
    if (running !== undefined) return running;
    const id = this.#nextId++;
    const answer = this.#head(lo, hi, deadlineMs).finally(() => {
      this.#asking.delete(lo, hi);
      this.#answers.delete(id);
    });
    this.#asking.set(lo, hi, id);
    this.#answers.set(id, answer);
    return answer;
  }

  async #head(lo: number, hi: number, deadlineMs: number): Promise<ObjectChain> {
    this.asked++;
    const { client, folder, blockBytes } = this.#options;
    try {
      const answer = await client.call({ method: 'HEAD', key: objectKey(folder, lo, hi), deadlineMs });
      const chain = decodeChain(answer!.headers[CHAIN_HEADER], Number(answer!.headers['content-length']), blockBytes);
      return chain !== undefined && chain[0] === lo && chain[1] === hi ? chain : 'unreadable';
    } catch (error) {
      if (!(error instanceof S3Failure) || error.status !== 404) throw error;
      this.#missing.set(lo, hi, 1);
      return 'missing';
    }
  }
}

/** Leading blocks of `chain` that are rows `from` and on of `hashes`. */
export function commonRun(chain: Int32Array, hashes: Int32Array, from: number): number {
  const limit = Math.min(chain.length, hashes.length - from * 2);
  let words = 0;
  while (words < limit && chain[words] === hashes[from * 2 + words]) words++;
  return words >> 1;
}
