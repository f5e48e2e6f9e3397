import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { ArmatureError } from '@armature/contracts';
import type { KvTierBackend, KvTierHost, Random } from '@armature/contracts';
import type { S3TierConfig } from './config.ts';
import { machineSources, resolveCredentials } from './credentials.ts';
import type { CredentialSources } from './credentials.ts';
import { bucketAddress } from './endpoint.ts';
import { describeProblem, isFinal } from './problems.ts';
import { S3Client } from './s3-client.ts';
import { S3Failure } from './s3-failure.ts';
import { S3Store } from './s3-store.ts';

/** Kind kv-tier, `use: s3`: blocks in a bucket, shared by content with every worker of the same model and layout. */
export class S3Tier implements KvTierBackend {
  readonly tier = 'object';
  readonly #config: S3TierConfig;
  readonly #random: Random;
  readonly #sources: CredentialSources;
  #stores: S3Store[];

  constructor(config: S3TierConfig, random: Random, sources: CredentialSources = machineSources()) {
    this.#config = config;
    this.#random = random;
    this.#sources = sources;
    this.#stores = [];
  }

  /** A bucket has no size. */
  capacityBytes(): undefined {
    return undefined;
  }

  async open(host: KvTierHost): Promise<S3Store> {
    const config = this.#config;
    const address = bucketAddress(config, this.#sources.env);
    const client = new S3Client({
      address,
      connections: config.connections,
      requestTimeoutMs: config.requestTimeoutMs,
      ca: readCa(config.caFile, host.baseDir),
      signPayload: config.signPayload === 'always',
      credentials: () => resolveCredentials(config, this.#sources),
      clock: host.clock,
      random: this.#random.fork('s3-backoff'),
    });
    const store = new S3Store(config, host, client, this.#random.fork('s3-recheck'));
    this.#stores.push(store);
    try {
      await store.check(config.openTimeoutMs);
    } catch (error) {
      const failure = S3Failure.from(error);
      if (isFinal(failure)) {
        await store.close();
        const problem = describeProblem(failure, config);
        throw new ArmatureError(problem.code, problem.message, { hint: problem.hint!, cause: failure });
      }
      store.beginDegraded(failure);
    }
    return store;
  }

  async close(): Promise<void> {
    await Promise.all(this.#stores.splice(0).map((store) => store.close()));
  }
}

function readCa(path: string, baseDir: string): string | undefined {
  if (path === '') return undefined;
  try {
    return readFileSync(resolve(baseDir, path), 'utf8');
  } catch (error) {
    throw new ArmatureError('KVBM_S3_CONFIG_INVALID', `cannot read caFile ${path}: ${(error as Error).message}`, { hint: 'name a PEM file with the certificates to trust', cause: error });
  }
}
