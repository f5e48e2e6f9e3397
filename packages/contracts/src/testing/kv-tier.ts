import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { KvTierBackend } from '../kv-tier.ts';
import { lifeRules, reopenRules } from './kv-tier-life-rules.ts';
import { contentRules, evictionRules } from './kv-tier-rules.ts';
import { TierSession } from './kv-tier-session.ts';
import type { SuiteMover, TierFacts } from './kv-tier-session.ts';
import { PlainMover } from './plain-mover.ts';
import { registerRules } from './runner.ts';
import type { ContractRule, SkippedRule, SuiteRunner } from './runner.ts';

export { PlainMover } from './plain-mover.ts';
export type { SuiteMover, TierFacts } from './kv-tier-session.ts';

export interface KvTierContractOptions {
  readonly runner: SuiteRunner;
  /** A new tier; two of the same folder are two lives of one (the first is closed before the second opens). */
  create(facts: TierFacts): KvTierBackend | Promise<KvTierBackend>;
  /** Copies between the suite's memory and the tier's. Default: `PlainMover`, without a transfer agent. */
  readonly createMover?: () => SuiteMover | Promise<SuiteMover>;
  /** The tier has a capacity that it keeps by evicting. Default true. */
  readonly isBounded?: boolean;
  /** What was stored is there when it is opened again. Default false. */
  readonly isPersistent?: boolean;
  /** First seed of the random rules; failures print theirs. */
  readonly seed?: number;
  readonly skip?: readonly SkippedRule[];
}

/** What rules are given. */
export interface TierSuite {
  readonly seed: number;
  /** Opens a tier, runs the body, closes it and checks that nothing is left. */
  withTier(facts: TierChoice, body: (it: TierSession) => Promise<void>): () => Promise<void>;
  withFolder(body: (folder: string) => Promise<void>): Promise<void>;
}

export interface TierChoice {
  readonly blockBytes?: number;
  readonly folder?: string;
  readonly fingerprints?: { readonly model?: string; readonly layout?: string };
}

const PLACES = 24;

/** Runs the rules of `kv-tier` v1. */
export function kvTierContract(options: KvTierContractOptions): void {
  registerRules(options.runner, 'kv-tier contract', kvTierRules(options), options.skip);
}

/** The rules, for runners and for mutant tests. */
export function kvTierRules(options: Omit<KvTierContractOptions, 'runner'>): ContractRule[] {
  const { create, createMover = plainMover, isBounded = true, isPersistent = false, seed = 20_261 } = options;
  const withFolder = async (body: (folder: string) => Promise<void>): Promise<void> => {
    const parent = mkdtempSync(join(tmpdir(), 'armature-kv-tier-'));
    try {
      await body(join(parent, 'tier'));
    } finally {
      rmSync(parent, { recursive: true, force: true });
    }
  };
  const inFolder = async (folder: string, { blockBytes = 8192, fingerprints }: TierChoice, body: (it: TierSession) => Promise<void>): Promise<void> => {
    const facts = { places: PLACES, blockBytes, folder };
    const { mover, close } = await createMover();
    try {
      const session = await TierSession.open(await create(facts), facts, mover, fingerprints);
      await body(session).catch(async (error: unknown) => {
        await session.close().catch(() => undefined);
        throw error;
      });
      await session.close();
    } finally {
      await close();
    }
  };
  const withTier: TierSuite['withTier'] = (choice, body) => () => (choice.folder === undefined ? withFolder((folder) => inFolder(folder, choice, body)) : inFolder(choice.folder, choice, body));
  const suite: TierSuite = { seed, withTier, withFolder };
  return [...contentRules(suite), ...(isBounded ? evictionRules(suite) : []), ...lifeRules(suite), ...(isPersistent ? reopenRules(suite) : [])];
}

function plainMover(): SuiteMover {
  return { mover: new PlainMover(), close: () => Promise.resolve() };
}
