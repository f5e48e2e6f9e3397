import { KvBlockStatus } from '@armature/contracts';
import type { Clock } from '@armature/contracts';
import type { BusyMeter } from './busy-meter.ts';
import type { Circuit } from './circuit.ts';
import { commonRun } from './directory.ts';
import type { Directory } from './directory.ts';
import { CHAIN_HEADER, objectKey } from './format.ts';
import type { S3Client } from './s3-client.ts';
import { S3Failure } from './s3-failure.ts';
import type { Segment } from './segment.ts';

export interface UploaderOptions {
  readonly client: S3Client;
  readonly directory: Directory;
  readonly circuit: Circuit;
  readonly meter: BusyMeter;
  readonly folder: string;
  readonly blockBytes: number;
  readonly fingerprint: Uint8Array;
  readonly timeoutMs: number;
  readonly clock: Clock;
  /** Blocks `from` to `to` of the segment have come to their end. Done and Present: they are blocks 0 and on of the object named by block `from`. */
  readonly ended: (segment: Segment, from: number, to: number, status: KvBlockStatus) => void;
}

/** Rounds of asking and writing without a block more before a segment is given up: objects that come and go under our hands. */
const MAX_IDLE_ROUNDS = 6;

/** Writes segments, each block once in the whole store: objects are created only where none is, and what is there already is not written again. */
export class Uploader {
  readonly #options: UploaderOptions;
  /** The last object was there before us: the next one of that chain will be too, so look before sending megabytes. */
  #looksFirst: boolean;
  #isConditional: boolean;
  puts: number;
  /** PUTs that found the object there. */
  conflicts: number;
  unreadable: number;

  constructor(options: UploaderOptions) {
    this.#options = options;
    this.#looksFirst = false;
    this.#isConditional = true;
    this.puts = 0;
    this.conflicts = 0;
    this.unreadable = 0;
  }

  /** Never rejects. */
  async write(segment: Segment): Promise<void> {
    const { circuit, clock, ended } = this.#options;
    const deadlineMs = clock.nowMs() + this.#options.timeoutMs;
    let from = 0;
    let looks = this.#looksFirst;
    try {
      for (let idle = 0; idle < MAX_IDLE_ROUNDS && from < segment.count; idle++) {
        if (circuit.isOpen) break;
        if (segment.isAbandoned) return ended(segment, from, segment.count, KvBlockStatus.Canceled);
        if (looks) {
          const there = await this.#presentFrom(segment, from, deadlineMs);
          this.#looksFirst = there > 0;
          if (there > 0) ended(segment, from, from + there, KvBlockStatus.Present);
          from += there;
          looks = there > 0;
          if (there > 0) idle = 0;
        } else {
          if (await this.#create(segment, from, deadlineMs)) return ended(segment, from, segment.count, KvBlockStatus.Done);
          looks = true;
        }
      }
      if (from < segment.count) ended(segment, from, segment.count, KvBlockStatus.Refused);
    } catch (error) {
      circuit.failed(S3Failure.from(error));
      ended(segment, from, segment.count, circuit.isOpen ? KvBlockStatus.Refused : KvBlockStatus.Failed);
    }
  }

  /** Blocks from `from` on that the object named by it holds. */
  async #presentFrom(segment: Segment, from: number, deadlineMs: number): Promise<number> {
    const { directory, circuit, client, folder } = this.#options;
    const [lo, hi] = [segment.hashes[from * 2]!, segment.hashes[from * 2 + 1]!];
    const chain = await directory.ask(lo, hi, deadlineMs);
    circuit.succeeded();
    if (chain === 'missing') return 0;
    if (chain === 'unreadable') {
      // The folder is this format's alone: what cannot be read would keep its name blocked for everybody.
      this.unreadable++;
      await client.call({ method: 'DELETE', key: objectKey(folder, lo, hi), deadlineMs });
      return 0;
    }
    return commonRun(chain, segment.hashes.subarray(0, segment.count * 2), from);
  }

  /** False: an object with that name is there. */
  async #create(segment: Segment, from: number, deadlineMs: number): Promise<boolean> {
    const { client, directory, circuit, meter, folder, blockBytes, fingerprint } = this.#options;
    const [lo, hi] = [segment.hashes[from * 2]!, segment.hashes[from * 2 + 1]!];
    const body = segment.body(from, blockBytes, fingerprint);
    meter.begin();
    let written = 0;
    try {
      this.puts++;
      const headers = { [CHAIN_HEADER]: segment.chain(from), 'content-type': 'application/octet-stream', ...(this.#isConditional ? { 'if-none-match': '*' } : {}) };
      await client.call({ method: 'PUT', key: objectKey(folder, lo, hi), headers, body, deadlineMs });
      written = segment.count - from;
      circuit.succeeded();
      directory.exists(lo, hi);
      return true;
    } catch (error) {
      const failure = S3Failure.from(error);
      if (failure.status === 501 && this.#isConditional) {
        // A store without conditional writes: two workers that write at once write the same bytes.
        this.#isConditional = false;
        return false;
      }
      if (failure.status !== 412 && failure.status !== 409) throw failure;
      this.conflicts++;
      return false;
    } finally {
      meter.end(written, written === 0 ? 0 : body.lengthBytes);
    }
  }
}
