import type { EngineBackend, Logger, PluginContext } from '@armature/contracts';
import { ManualClock } from '@armature/contracts/testing/manual-clock';
import type { EngineSurroundings } from '@armature/contracts/testing/engine-session';
import { sequenceHashes, saltHash } from '@armature/tokens';
import { mock, mockDefaults } from './index.ts';
import type { MockConfig } from './index.ts';

export const BLOCK_SIZE = 8;
const small: Partial<MockConfig> = { totalBlocks: 64, maxModelTokens: 256, maxSequences: 6, maxBatchedTokens: 48, kvCheck: 'tokens' };

/** A small world: one clock, any number of engines made by the plug-in itself, what they logged and counted. */
export class MockWorld implements EngineSurroundings {
  readonly clock = new ManualClock();
  readonly logged: { level: string; message: string; code: unknown }[] = [];
  corruptions = 0;
  readonly #config: Partial<MockConfig>;

  constructor(config: Partial<MockConfig> = {}) {
    this.#config = config;
  }

  create(): EngineBackend {
    const log = (level: string) => (message: string, fields?: Readonly<Record<string, unknown>>) => void this.logged.push({ level, message, code: fields?.['code'] });
    const logger: Logger = { debug: log('debug'), info: log('info'), warn: log('warn'), error: log('error'), child: () => logger, isEnabled: () => true };
    const facts = { name: 'demo', source: '.', folder: '.', blockSize: BLOCK_SIZE };
    const metrics = { counter: () => ({ with: () => ({ inc: () => void this.corruptions++ }) }) };
    const context = { path: 'test', clock: this.clock, log: logger, metrics, scopes: [{ kind: 'model', name: 'demo', facts }] } as unknown as PluginContext; // only what `create` touches
    return mock.create({ ...mockDefaults, ...small, ...this.#config }, context) as EngineBackend;
  }

  elapse(ms: number): Promise<void> {
    return this.clock.elapse(ms);
  }

  hash(tokenIds: Int32Array, blockSize: number, cacheSalt: string): Int32Array {
    return sequenceHashes(tokenIds, tokenIds.length, blockSize, saltHash({ cacheSalt }));
  }
}

/** Paths of what the plug-in finds wrong with its own config. */
export function configProblemsOf(config: Partial<MockConfig>): string[] {
  const problems: string[] = [];
  mock.check?.({ ...mockDefaults, ...config }, ({ path }) => void problems.push(path.join('.')));
  return problems;
}
