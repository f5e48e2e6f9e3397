import { ArmatureError } from '@armature/contracts';
import type { Logger, PluginContext } from '@armature/contracts';
import type { VllmMetrics } from './metrics.ts';

/** Which data-parallel rank of a server a worker is. `workers[].dpRanks` says how many there are; each is a worker of its own. */
export interface RankPlace {
  readonly rank: number;
  readonly ranks: number;
  /** Which server of the pool: its workers `group * ranks` to `group * ranks + ranks - 1` share one. */
  readonly group: number;
}

export const ONLY_RANK: RankPlace = { rank: 0, ranks: 1, group: 0 };

/** As the deployment says it of the enclosing worker. */
export function placeOf(scopes: PluginContext['scopes']): RankPlace {
  const { index, dpRanks } = scopes.find(({ kind }) => kind === 'worker')?.facts ?? {};
  if (typeof index !== 'number' || typeof dpRanks !== 'number') return ONLY_RANK;
  return { rank: index % dpRanks, ranks: dpRanks, group: Math.floor(index / dpRanks) };
}

/** What tells vLLM's API server which rank takes a request; without it vLLM chooses one itself. */
export function rankHeaders({ rank, ranks }: RankPlace): Readonly<Record<string, string>> {
  return ranks > 1 ? { 'x-data-parallel-rank': String(rank) } : {};
}

/** As vLLM's publisher does it: rank r has the port that the configuration names, and r more. Throws `VLLM_EVENTS_ENDPOINT`. */
export function offsetEndpoint(endpoint: string, offset: number): string {
  if (endpoint === '' || offset === 0) return endpoint;
  const [, address = '', port = ''] = /^(tcp:\/\/.*:)(\d+)$/.exec(endpoint) ?? [];
  const moved = Number(port) + offset;
  if (Number(port) > 0 && moved <= 65_535) return `${address}${moved}`;
  throw new ArmatureError('VLLM_EVENTS_ENDPOINT', `${endpoint} has no port to which ${offset} can be added, and data-parallel ranks have one each`, {
    hint: 'write engine.config.kvEvents.endpoint and .replayEndpoint as tcp://HOST:PORT, the ports of rank 0; with room for dpRanks ports from each on',
  });
}

/** Since when vLLM reads the header that names a rank. */
const FIRST_MINOR = 12;

export interface RankFacts {
  readonly metrics: VllmMetrics;
  /** Undefined: not told. */
  readonly version: string | undefined;
  readonly followsEvents: boolean;
  readonly log: Logger;
}

/** What the server says of its ranks against the configuration. Throws `VLLM_RANKS_MISMATCH`. */
export function checkRanks({ ranks }: RankPlace, { metrics, version, followsEvents, log }: RankFacts): void {
  const [, minor] = /^0\.(\d+)\./.exec(version ?? '') ?? [];
  if (ranks > 1 && minor !== undefined && Number(minor) < FIRST_MINOR) {
    throw new ArmatureError('VLLM_RANKS_MISMATCH', `vLLM ${version} cannot be told which data-parallel rank takes a request`, { hint: `use vLLM 0.${FIRST_MINOR} or newer, or servers of one rank each: workers[].replicas instead of dpRanks` });
  }
  const found = metrics.engines;
  if (found === ranks || found === 0) return;
  const hint = `set workers[].dpRanks: ${found} and replicas: ${found}, so that each rank is a worker of its own`;
  if (ranks > 1 || followsEvents) throw new ArmatureError('VLLM_RANKS_MISMATCH', `vLLM has ${found} data-parallel ranks, the configuration says ${ranks}`, { hint });
  log.warn('vLLM has several data-parallel ranks, and chooses among them itself: their load is summed', { code: 'VLLM_RANKS_MISMATCH', ranks: found, hint });
}
