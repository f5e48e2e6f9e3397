import type { DecisionRecord, RequestRecord } from '@armature/serving';

const shortName = (instanceId: string): string => instanceId.split('@')[0] ?? instanceId;
const ms = (value: number | undefined): string => (value === undefined ? '–' : `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`);

function bytes(value: number): string {
  if (value < 1024) return `${value} B`;
  return value < 1 << 20 ? `${(value / 1024).toFixed(0)} KiB` : `${(value / (1 << 20)).toFixed(1)} MiB`;
}

/** Terms that tell the candidates apart; with one candidate, all that are not zero. */
function tellingTerms(decision: DecisionRecord): readonly string[] {
  const names = Object.keys(decision.candidates[0]?.terms ?? {}).filter((name) => name !== 'cost' && name !== 'overlapBlocks');
  /** As they are shown. */
  const values = (name: string): readonly number[] => decision.candidates.map((candidate) => Number((candidate.terms[name] ?? 0).toFixed(2)));
  if (decision.candidates.length < 2) return names.filter((name) => values(name).some((value) => value !== 0));
  return names.filter((name) => new Set(values(name)).size > 1);
}

/** JSON has no Infinity: an excluded candidate has null. */
const costOf = ({ cost }: { readonly cost: number | null }): number => cost ?? Number.MAX_VALUE;

function decisionLines(decision: DecisionRecord): string[] {
  const ranked = [...decision.candidates].sort((a, b) => Number(b.worker === decision.chosen) - Number(a.worker === decision.chosen) || costOf(a) - costOf(b));
  const names = tellingTerms(decision);
  const lines = ranked.map((candidate, i) => {
    const label = i === 0 ? `${decision.hop.padEnd(10)} →` : ''.padEnd(12);
    const terms = names.map((name) => `${name} ${Number((candidate.terms[name] ?? 0).toFixed(2))}`).join(', ');
    const why = i === 0 ? `${decision.policy}: ` : '';
    return `  ${label} ${shortName(candidate.worker).padEnd(12)} ${why}cost ${(candidate.cost as number | null) === null ? 'none (excluded)' : Number(candidate.cost.toFixed(2))}, overlap ${candidate.overlapBlocks} of ${decision.blocks} blocks${terms === '' ? '' : ` (${terms})`}${candidate.degraded ? ' · degraded: its cache is known only in part' : ''}`;
  });
  if (decision.candidates.length === 0) lines.push(`  ${`${decision.hop.padEnd(10)} →`} ${shortName(decision.chosen).padEnd(12)} ${decision.policy} (its candidates are no longer recorded)`);
  if (decision.policyError !== undefined) lines.push(`  ${''.padEnd(12)} policy: ${decision.policyError}`);
  if (decision.actualCachedTokens !== undefined) {
    const regret = decision.regretBlocks ?? 0;
    lines.push(`  ${'afterwards'.padEnd(12)} ${decision.actualCachedTokens} tokens were cached${regret > 0 ? `; another worker would have been ${Number(regret.toFixed(2))} blocks better` : ', no better choice'}`);
  }
  return lines;
}

const SOURCES: Readonly<Record<string, string>> = { device: 'held by the engine', recompute: 'computed' };

/** From where each run of the prompt's blocks came, and why. */
function fetchLines({ runs, onboardedBlocks, waitedMs }: NonNullable<RequestRecord['kv']>): string[] {
  const lines = runs.map(({ source, fromBlock, blocks, estimatedMs, recomputeMs, tookMs, outcome, peer }, i) => {
    const from = source === 'peer' && peer !== undefined ? `from ${shortName(peer)}` : (SOURCES[source] ?? `from ${source}`);
    const isFetched = !(source in SOURCES);
    const times = isFetched ? ` (expected ${ms(estimatedMs)}${tookMs === undefined ? '' : `, took ${ms(tookMs)}`}; computing: ${ms(recomputeMs)})` : '';
    const why = outcome === 'done' ? '' : ` · ${outcome}`;
    return `  ${(i === 0 ? 'kv' : '').padEnd(12)} blocks ${fromBlock}–${fromBlock + blocks - 1} ${from}${times}${why}`;
  });
  if (onboardedBlocks > 0) lines.push(`  ${''.padEnd(12)} ${onboardedBlocks} blocks brought to the engine in ${ms(waitedMs)}`);
  return lines;
}

/** Where the request went on when it lost a worker, and what that cost. */
function moveLines(moves: RequestRecord['moves']): string[] {
  return moves.map(({ kind, from, to, code, choice, atToken, addedMs }, i) => {
    const what = `${kind === 'decode' ? 'decode ' : ''}${shortName(from)} → ${to === undefined ? 'nowhere' : shortName(to)}`;
    const of = choice === undefined ? '' : ` of choice ${choice}`;
    const cost = addedMs === undefined ? 'no token came after it' : `${ms(addedMs)} to the next token`;
    return `  ${(i === 0 ? 'migrated' : '').padEnd(12)} ${what} after ${atToken} tokens${of}: ${code}; ${cost}`;
  });
}

/** One turn, as `armature chat --explain` shows it. */
export function explainRequest(record: RequestRecord): string {
  const lines = record.decisions.flatMap(decisionLines);
  if (record.disaggregation !== undefined) {
    const { policy, remote, reason } = record.disaggregation;
    lines.push(`  ${'prefill'.padEnd(12)} ${remote ? 'on a prefill worker' : 'on the decode worker'} (${policy}${reason === 'policy' ? '' : `: ${reason}`})`);
  }
  if (record.transfer !== undefined) {
    const { from, to, movedBlocks, movedBytes, matchedBlocks, durationMs, outcome } = record.transfer;
    const held = matchedBlocks > 0 ? `, ${matchedBlocks} held already` : '';
    lines.push(`  ${'moved'.padEnd(12)} ${movedBlocks} blocks (${bytes(movedBytes)}) ${shortName(from)} → ${shortName(to)} in ${ms(durationMs)}${held}${outcome === 'valid' ? '' : ` (${outcome})`}`);
  }
  if (record.kv !== undefined) lines.push(...fetchLines(record.kv));
  lines.push(...moveLines(record.moves));
  lines.push(
    `  ${'tokens'.padEnd(12)} ${record.promptTokens} prompt, ${record.cachedTokens} cached, ${record.outputTokens} output · TTFT ${ms(record.ttftMs)} · ITL ${ms(record.itlMs)}`,
  );
  return lines.join('\n');
}
