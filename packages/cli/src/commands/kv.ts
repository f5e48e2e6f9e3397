import { ArmatureError } from '@armature/contracts';
import type { BlockManagerStats } from '@armature/kvbm';
import { adminGet } from './admin-client.ts';
import { storeBlocks, storeGc, storeStats, storeVerify } from './kv-store.ts';

export interface KvOptions {
  readonly admin: string;
  readonly worker?: string;
  /** Stores on disk, without a server. */
  readonly path?: string;
  readonly json: boolean;
}

/** A row of GET /kv/ls. */
export interface KvBlockRow {
  readonly worker: string;
  readonly tier: string;
  readonly hash: string;
  readonly parent: string | null;
}

/** A row of GET /kv/verify. */
export interface KvVerifyRow {
  readonly worker: string;
  readonly checked: number;
  readonly corrupt: number;
  readonly unchecked: number;
}

export async function kvStats(options: KvOptions): Promise<void> {
  if (options.path !== undefined) return print(options, await storeStats(options.path), (rows) => tableText(rows, 'no store there'));
  print(options, await rowsOf<BlockManagerStats>(options, '/kv', {}), statsText);
}

export async function kvLs(options: KvOptions & { readonly limit: number }): Promise<void> {
  if (options.path !== undefined) return print(options, await storeBlocks(options.path, options.limit), (rows) => tableText(rows, 'no blocks'));
  print(options, await rowsOf<KvBlockRow>(options, '/kv/ls', { limit: String(options.limit) }), blocksText);
}

export async function kvVerify(options: KvOptions & { readonly repair: boolean; readonly deadlineMs: number }): Promise<void> {
  if (options.path !== undefined) {
    const stores = await storeVerify(options.path, options.repair);
    if (stores.some(({ corrupt }) => corrupt > 0)) process.exitCode = 1;
    return print(options, stores, (rows) => tableText(rows, 'no store there'));
  }
  if (options.repair) throw new ArmatureError('KV_REPAIR_RUNNING', '--repair is for stores on disk that no process has open', { hint: 'add --path FOLDER; a running server drops corrupt blocks when they are used' });
  const rows = await rowsOf<KvVerifyRow>(options, '/kv/verify', { deadlineMs: String(options.deadlineMs) });
  print(options, rows, verifyText);
  if (rows.some(({ corrupt }) => corrupt > 0)) process.exitCode = 1;
}

/** A running store collects by itself; this is for what others left behind. */
export async function kvGc(options: { readonly path: string; readonly dryRun: boolean; readonly json: boolean }): Promise<void> {
  print({ admin: '', json: options.json }, await storeGc(options.path, options.dryRun), (rows) => tableText(rows, 'no store there'));
}

async function rowsOf<Row>({ admin, worker }: KvOptions, path: string, query: Readonly<Record<string, string>>): Promise<readonly Row[]> {
  const search = new URLSearchParams({ ...query, ...(worker === undefined ? {} : { worker }) });
  const body = await adminGet(admin, search.size === 0 ? path : `${path}?${search}`);
  if (body === undefined) throw new ArmatureError('CHAT_REFUSED', `${admin} knows nothing of ${path}`, { hint: 'the server runs another version of armature' });
  return JSON.parse(body) as readonly Row[];
}

function print<Row>({ json }: KvOptions, rows: readonly Row[], text: (rows: readonly Row[]) => string): void {
  process.stdout.write(json ? `${JSON.stringify(rows, null, 2)}\n` : text(rows));
}

const NOTHING = 'no worker of this process keeps KV below its engine (models[].workers[].kvbm)\n';

export function statsText(managers: readonly BlockManagerStats[]): string {
  if (managers.length === 0) return NOTHING;
  const lines: string[] = [];
  for (const { worker, tiers, ...all } of managers) {
    lines.push(worker);
    lines.push(...table([['tier', 'held', 'of', 'pinned', 'stored', 'loaded', 'missed', 'evicted', 'refused', 'dropped', 'failed'], ...tiers.map(tierCells)]));
    for (const { tier, problem } of tiers) if (problem !== undefined) lines.push(`  ${tier} works with less: ${problem.message} [${problem.code}]`);
    lines.push(`  ${all.offloadedBlocks} blocks went down, ${all.onboardedBlocks} came up; ${all.queuedOffloads} wait, ${all.droppedOffloads} were dropped; ${all.corruptBlocks} were corrupt; ${all.loans} lent, ${all.pinnedDeviceBlocks} pinned on the device`);
  }
  return `${lines.join('\n')}\n`;
}

function tierCells(tier: BlockManagerStats['tiers'][number]): string[] {
  const { capacityBlocks, heldBlocks, pinnedBlocks, stores, loads, misses, evictions, refusals, dropped, failures } = tier;
  return [tier.tier, ...[heldBlocks, capacityBlocks, pinnedBlocks, stores, loads, misses, evictions, refusals, dropped, failures].map(String)];
}

export function blocksText(rows: readonly KvBlockRow[]): string {
  if (rows.length === 0) return 'no blocks\n';
  return `${table([['worker', 'tier', 'hash', 'parent'], ...rows.map(({ worker, tier, hash, parent }) => [worker, tier, hash, parent ?? '–'])]).join('\n')}\n`;
}

export function verifyText(rows: readonly KvVerifyRow[]): string {
  if (rows.length === 0) return NOTHING;
  return rows
    .map(({ worker, checked, corrupt, unchecked }) => {
      const rest = unchecked === 0 ? '' : `, ${unchecked} not reached in time`;
      return `${worker}: ${checked} blocks checked, ${corrupt} corrupt${rest}\n`;
    })
    .join('');
}

/** Rows of equal objects. */
function tableText(rows: readonly object[], nothing: string): string {
  if (rows.length === 0) return `${nothing}\n`;
  const cell = (value: unknown): string => (value === null || value === undefined ? '–' : typeof value === 'boolean' ? (value ? 'yes' : 'no') : String(value as string | number));
  return `${table([Object.keys(rows[0] as object), ...rows.map((row) => Object.values(row).map(cell))]).join('\n')}\n`;
}

/** Columns as wide as their widest cell, two spaces apart, indented. The first one is text, numbers stand right. */
function table(rows: readonly (readonly string[])[]): string[] {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((cells) => (cells[column] ?? '').length)));
  const isNumber = (column: number): boolean => rows.slice(1).every((cells) => /^\d+$/.test(cells[column] ?? ''));
  const right = widths.map((_, column) => isNumber(column));
  return rows.map((cells) => `  ${cells.map((cell, column) => (right[column] === true ? cell.padStart(widths[column] ?? 0) : cell.padEnd(widths[column] ?? 0))).join('  ')}`.trimEnd());
}
