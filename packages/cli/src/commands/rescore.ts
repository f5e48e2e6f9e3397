import { readFileSync } from 'node:fs';
import { ArmatureError } from '@armature/contracts';
import type { Candidates, RoutingRequest, WorkerRecord } from '@armature/contracts';
import { Rescorer, expectedWorkDefaults, kvCostDefaults } from '@armature/router-kv';
import type { KvPolicyConfig, RecordedDecision } from '@armature/router-kv';

export interface RescoreOptions {
  readonly set: readonly string[];
  readonly json: boolean;
}

interface CandidateLine {
  readonly worker: string;
  /** null: excluded. */
  readonly cost: number | null;
  readonly taints?: readonly string[];
  readonly degraded: boolean;
  readonly parts: Readonly<Record<string, number | null>>;
  readonly [column: string]: unknown;
}

interface DecisionLine {
  readonly requestId: string;
  readonly model: string;
  readonly hop: RoutingRequest['hop'];
  readonly policy: string;
  readonly chosen: string;
  readonly promptTokens: number;
  readonly blocks: number;
  readonly blockSize: number;
  readonly request: Partial<RoutingRequest>;
  readonly policyError?: string;
  readonly candidates: readonly CandidateLine[];
}

export interface RescoreReport {
  readonly decisions: number;
  /** Left out: of other policies, without recorded candidates, or lines that are none. */
  readonly skipped: number;
  /** Recorded costs that the recorded weights give again, to 1e-6. */
  readonly reproduced: number;
  /** Recorded choices that were not of lowest cost (a draw with temperature, a picker of somebody else); the lowest one stands for them. */
  readonly drawn: number;
  readonly changed: number;
  /** Blocks of overlap that the changed choices would have found more (negative: fewer). */
  readonly overlapBlocksGained: number;
  readonly changes: readonly { readonly requestId: string; readonly hop: string; readonly from: string; readonly to: string; readonly fromCost: number; readonly toCost: number }[];
  /** Decisions per worker, as recorded and with the new weights. */
  readonly workers: Readonly<Record<string, { recorded: number; rescored: number }>>;
}

/** `armature rescore decisions.jsonl --set overlapCredit=0.5`: what other weights would have chosen. */
export function rescore(file: string, options: RescoreOptions): void {
  const report = rescoreText(read(file), parseSettings(options.set));
  process.stdout.write(options.json ? `${JSON.stringify(report)}\n` : render(report, options.set));
}

function read(file: string): string {
  try {
    return readFileSync(file === '-' ? 0 : file, 'utf8');
  } catch (error) {
    throw new ArmatureError('CONFIG_FILE_UNREADABLE', `cannot read ${file}: ${(error as Error).message}`, { hint: 'export decisions with: curl ADMIN_URL/decisions.jsonl > decisions.jsonl' });
  }
}

/** Settings that a cost is made of. Others (bounds, the index, the draw) cannot be tried on recorded facts. */
const WEIGHTS = Object.keys({ ...kvCostDefaults, ...expectedWorkDefaults });

function parseSettings(settings: readonly string[]): Partial<KvPolicyConfig> {
  const weights: Record<string, number> = {};
  const known: readonly string[] = WEIGHTS;
  for (const setting of settings) {
    const [, name = '', text = ''] = /^([^=]+)=(.*)$/.exec(setting) ?? [];
    const value = Number(text);
    if (!known.includes(name)) throw new ArmatureError('USAGE_SETTING_UNKNOWN', `--set ${setting}: there is no weight "${name || setting}"`, { hint: `weights: ${known.join(', ')}` });
    if (text.trim() === '' || !Number.isFinite(value) || value < 0) throw new ArmatureError('USAGE_SETTING_INVALID', `--set ${setting}: "${text}" is not a number from 0`, { hint: 'write --set overlapCredit=0.5' });
    weights[name] = value;
  }
  return weights;
}

export function rescoreText(text: string, settings: Partial<KvPolicyConfig>): RescoreReport {
  const configs = new Map<string, Partial<KvPolicyConfig>>();
  const report = { decisions: 0, skipped: 0, reproduced: 0, drawn: 0, changed: 0, overlapBlocksGained: 0, changes: [] as RescoreReport['changes'][number][], workers: {} as Record<string, { recorded: number; rescored: number }> };
  const scorers = new Map<string, { was: Rescorer; now: Rescorer }>();
  for (const line of text.split('\n')) {
    if (line.trim() === '') continue;
    const parsed = parseLine(line);
    if (parsed?.type === 'policy') {
      configs.set(String(parsed['model']), (parsed['config'] ?? {}) as Partial<KvPolicyConfig>);
      continue;
    }
    const decision = parsed?.type === 'decision' ? (parsed as unknown as DecisionLine) : undefined;
    if (decision === undefined || !isWhole(decision)) {
      report.skipped++;
      continue;
    }
    const config = configs.get(decision.model) ?? {};
    const pair = scorers.get(decision.model) ?? { was: new Rescorer(config), now: new Rescorer({ ...config, ...settings }) };
    scorers.set(decision.model, pair);
    add(report, decision, pair);
  }
  return report;
}

/** Of the policy we can score again, with recorded candidates. Files come from elsewhere: a line that is none is left out, not an accident. */
function isWhole({ policy, candidates, request, promptTokens, blocks, blockSize }: DecisionLine): boolean {
  if (policy !== 'kv' || !Array.isArray(candidates) || candidates.length === 0) return false;
  if (typeof request !== 'object' || request === null || ![promptTokens, blocks, blockSize].every(Number.isFinite)) return false;
  return candidates.every((entry: unknown) => {
    const candidate = entry as CandidateLine | null;
    return typeof candidate?.worker === 'string' && typeof candidate.parts === 'object' && candidate.parts !== null && Array.isArray(candidate.taints ?? []);
  });
}

function parseLine(line: string): { readonly type?: unknown; readonly [field: string]: unknown } | undefined {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === 'object' && value !== null ? (value as { readonly [field: string]: unknown }) : undefined;
  } catch {
    return undefined;
  }
}

type Open = { -readonly [K in keyof RescoreReport]: RescoreReport[K] extends readonly (infer T)[] ? T[] : RescoreReport[K] };

function add(report: Open & { workers: Record<string, { recorded: number; rescored: number }> }, line: DecisionLine, scorers: { was: Rescorer; now: Rescorer }): void {
  const decision = recorded(line);
  const was = scorers.was.score(decision);
  // A draw (temperature, a picker of somebody else) did not take the lowest cost: lowest is compared with lowest.
  const now = scorers.now.score(decision, was.best);
  report.decisions++;
  if (line.candidates.every(({ cost }, i) => cost === null || Math.abs(was.costs[i]! - cost) <= 1e-6 * Math.max(1, Math.abs(cost)))) report.reproduced++;
  if (was.best !== decision.chosen) report.drawn++;
  const from = line.candidates[was.best]?.worker ?? line.chosen;
  const to = line.candidates[now.best]?.worker ?? from;
  const tally = (worker: string): { recorded: number; rescored: number } => (report.workers[worker] ??= { recorded: 0, rescored: 0 });
  tally(from).recorded++;
  tally(to).rescored++;
  if (now.best === was.best) return;
  report.changed++;
  report.overlapBlocksGained += decision.candidates.overlapBlocks[now.best]! - (decision.candidates.overlapBlocks[was.best] ?? 0);
  report.changes.push({ requestId: line.requestId, hop: line.hop, from, to, fromCost: now.costs[was.best]!, toCost: now.costs[now.best]! });
}

/** The columns and the request of a recorded line. */
function recorded(line: DecisionLine): RecordedDecision {
  const count = line.candidates.length;
  const column = (name: string): number[] => line.candidates.map((candidate) => (typeof candidate[name] === 'number' ? candidate[name] : 0));
  const parts = Object.keys(line.candidates[0]?.parts ?? {});
  const candidates: Candidates = {
    count,
    slots: Int32Array.from({ length: count }, (_, i) => i),
    activeRequests: Int32Array.from(column('activeRequests')),
    activePrefillTokens: Float64Array.from(column('activePrefillTokens')),
    activeBlocks: Float64Array.from(column('activeBlocks')),
    totalBlocks: Float64Array.from(column('totalBlocks')),
    costPerHour: Float64Array.from(column('costPerHour')),
    degraded: Uint8Array.from(line.candidates, (candidate) => (candidate.degraded ? 1 : 0)),
    workers: line.candidates.map((candidate) => ({ instanceId: candidate.worker, taints: candidate.taints ?? [] }) as unknown as WorkerRecord),
    overlapBlocks: Int32Array.from(column('overlapBlocks')),
    hostBlocks: Int32Array.from(column('hostBlocks')),
    diskBlocks: Int32Array.from(column('diskBlocks')),
    objectBlocks: Int32Array.from(column('objectBlocks')),
    decodeBlocks: Float64Array.from(column('decodeBlocks')),
    excessShare: Float64Array.from(column('excessShare')),
  };
  const { hop, promptTokens, blocks, blockSize } = line;
  const none = { overlapCredit: NaN, temperature: NaN, prefillLoadScale: NaN, sharedCacheMultiplier: NaN, assumeKvReuse: undefined, trackPrefillTokens: undefined };
  return {
    request: {
      id: line.requestId,
      creditsOverlap: true,
      expectedOutputTokens: 0,
      sessionBonusBlocks: 0,
      requiredTaints: [],
      preferredTaints: [],
      ...none,
      ...line.request,
      hop,
      promptTokens,
      blocks,
      blockSize,
      sequenceHashes: new Int32Array(0),
      sessionSlot: -1, // slots mean nothing outside the process that recorded them
    },
    candidates,
    chosen: line.candidates.findIndex((candidate) => candidate.worker === line.chosen),
    parts,
    excluded: Uint8Array.from(line.candidates, (candidate) => (line.policyError === undefined && candidate.cost === null ? 1 : 0)),
    partCosts: Float64Array.from(line.candidates.flatMap((candidate) => parts.map((name) => candidate.parts[name] ?? Number.POSITIVE_INFINITY))),
  };
}

const MOST_LINES = 20;

function render(report: RescoreReport, settings: readonly string[]): string {
  const percent = (part: number): string => (report.decisions === 0 ? '–' : `${((100 * part) / report.decisions).toFixed(1)} %`);
  const lines = [
    `${report.decisions} decisions of policy kv${report.skipped > 0 ? ` (${report.skipped} lines left out: other policies, or no candidates recorded)` : ''}`,
    `${report.reproduced} of them are reproduced by the recorded weights (${percent(report.reproduced)})`,
    ...(report.drawn > 0 ? [`${report.drawn} were drawn, not of lowest cost (temperature, or a picker); the lowest cost stands for them below`] : []),
    `with ${settings.length === 0 ? 'the same weights' : settings.join(', ')}: ${report.changed} would have gone elsewhere (${percent(report.changed)}), overlap ${report.overlapBlocksGained >= 0 ? '+' : ''}${report.overlapBlocksGained} blocks`,
  ];
  for (const { requestId, hop, from, to, fromCost, toCost } of report.changes.slice(0, MOST_LINES)) lines.push(`  ${requestId}  ${hop}: ${from} (${fromCost.toFixed(2)}) → ${to} (${toCost.toFixed(2)})`);
  if (report.changes.length > MOST_LINES) lines.push(`  … and ${report.changes.length - MOST_LINES} more (--json lists all)`);
  lines.push('decisions per worker, recorded → rescored:');
  for (const [worker, { recorded: was, rescored }] of Object.entries(report.workers).sort()) lines.push(`  ${worker.padEnd(32)} ${was} → ${rescored}`);
  return `${lines.join('\n')}\n`;
}
