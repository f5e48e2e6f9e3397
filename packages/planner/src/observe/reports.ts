import { latencyBucketBoundsMs } from '@armature/contracts';
import type { EngineReport, PassColumns, TrafficReport } from '@armature/contracts';

const TRAFFIC_COUNTS = ['sequence', 'intervalMs', 'arrived', 'arrivedPromptTokens', 'finished', 'failed', 'promptTokens', 'cachedTokens', 'outputTokens', 'generatedTokens', 'remotePrefills', 'queued', 'withinObjective'] as const;
const ENGINE_COUNTS = ['sequence', 'intervalMs', 'running', 'waiting', 'prefillTokens', 'usedBlocks', 'totalBlocks'] as const;
const PASS_COLUMNS = ['prefillTokens', 'decodeSequences', 'contextTokens', 'ms'] as const;

/** Why a traffic report cannot be used, undefined if it can. Reports come from other processes, perhaps of other versions. */
export function trafficProblem(report: TrafficReport): string | undefined {
  if (typeof report !== 'object' || report === null || typeof report.source !== 'string') return 'it is no traffic report';
  const wrong = TRAFFIC_COUNTS.find((name) => !isCount(report[name]));
  if (wrong !== undefined) return `${wrong} is ${String(report[wrong])}`;
  for (const name of ['ttft', 'itl'] as const) {
    if (!(report[name] instanceof Uint32Array) || report[name].length !== latencyBucketBoundsMs.length) return `${name} is no column of ${latencyBucketBoundsMs.length} counts`;
  }
  return report.intervalMs > 0 ? undefined : 'its interval has no length';
}

/** The same of an engine report. */
export function engineProblem(report: EngineReport): string | undefined {
  if (typeof report !== 'object' || report === null || typeof report.instanceId !== 'string') return 'it is no engine report';
  const wrong = ENGINE_COUNTS.find((name) => !isCount(report[name]));
  if (wrong !== undefined) return `${wrong} is ${String(report[wrong])}`;
  return arePasses(report.passes) ? undefined : 'its passes are not four columns of equal length without gaps';
}

function arePasses(passes: PassColumns | undefined): boolean {
  const rows = passes?.ms?.length;
  return rows !== undefined && PASS_COLUMNS.every((name) => passes?.[name] instanceof Float64Array && passes[name].length === rows && passes[name].every(isCount));
}

function isCount(value: unknown): boolean {
  return typeof value === 'number' && Number.isFinite(value) && value >= 0;
}

export const noPasses: PassColumns = { prefillTokens: new Float64Array(0), decodeSequences: new Float64Array(0), contextTokens: new Float64Array(0), ms: new Float64Array(0) };

/** All rows, in order; the newest `limit` of them. */
export function joinPasses(all: readonly PassColumns[], limit: number): PassColumns {
  if (all.length === 0) return noPasses;
  const column = (name: (typeof PASS_COLUMNS)[number]): Float64Array => {
    const joined = new Float64Array(all.reduce((sum, passes) => sum + passes.ms.length, 0));
    let at = 0;
    for (const passes of all) {
      joined.set(passes[name], at);
      at += passes.ms.length;
    }
    return joined.length > limit ? joined.slice(-limit) : joined;
  };
  return { prefillTokens: column('prefillTokens'), decodeSequences: column('decodeSequences'), contextTokens: column('contextTokens'), ms: column('ms') };
}
