import { writeFileSync } from 'node:fs';
import os from 'node:os';
import { ArmatureError } from '@armature/contracts';
import { measure } from './measure.ts';
import type { Cell, Row } from './measure.ts';
import { transportNames } from './party.ts';
import type { TransportName } from './party.ts';
import { plotSvg } from './plot.ts';
import { parseSizes, sizeText } from './sizes.ts';
import { openStage } from './stage.ts';
import { runTarget } from './target.ts';

export interface NixelbenchOptions {
  readonly transport: string;
  readonly block: string;
  readonly batch: string;
  readonly direction: string;
  readonly seconds: number;
  readonly pool?: string;
  readonly json?: string;
  readonly plot?: string;
  readonly folder?: string;
  readonly role?: string;
}

const DEFAULT_POOL_BYTES = 256 << 20;
const MAX_POOL_BYTES = 4 * 1024 ** 3;

/** `armature nixelbench`: blocks moved between two processes, beside memcpy on the same memory. */
export async function nixelbench(options: NixelbenchOptions): Promise<void> {
  const transports = options.transport.split(',').map(transportOf);
  if (options.role === 'target') {
    await runTarget(transports[0] ?? 'tcp', Number(options.pool));
    return;
  }
  const cells = cellsOf(options);
  const largest = Math.max(...cells.map((cell) => cell.blockBytes * cell.batch));
  const poolBytes = Math.max(largest, options.pool === undefined ? DEFAULT_POOL_BYTES : (parseSizes(options.pool, '--pool')[0] ?? 0));
  if (poolBytes > MAX_POOL_BYTES) throw new ArmatureError('USAGE_SIZE_INVALID', `${sizeText(poolBytes)} of memory per process are more than this benchmark takes`, { hint: `keep block × batch below ${sizeText(MAX_POOL_BYTES)}` });
  const rows: Row[] = [];
  const progress = new Progress(transports.length * cells.length);
  for (const transport of transports) {
    const stage = await openStage(transport, poolBytes, options.folder);
    try {
      for (const cell of cells) {
        progress.show(`${transport} ${cell.direction} ${sizeText(cell.blockBytes)} × ${cell.batch}`);
        rows.push(await measure(stage, cell, options.seconds));
        progress.step();
      }
    } finally {
      await stage.close();
    }
  }
  progress.end();
  process.stdout.write(table(rows));
  if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify(report(rows), undefined, 2)}\n`);
  if (options.plot !== undefined) writeFileSync(options.plot, plotSvg(rows, `nixel between two processes, ${os.cpus()[0]?.model.trim() ?? 'unknown CPU'}`));
}

function transportOf(name: string): TransportName {
  const known = transportNames.find((entry) => entry === name.trim());
  if (known !== undefined) return known;
  throw new ArmatureError('USAGE_TRANSPORT_UNKNOWN', `--transport ${name}: there is no such transport`, { hint: `one or more of ${transportNames.join(',')}` });
}

function cellsOf(options: NixelbenchOptions): Cell[] {
  const directions = options.direction === 'both' ? (['read', 'write'] as const) : ([options.direction] as const);
  const cells: Cell[] = [];
  for (const direction of directions) {
    if (direction !== 'read' && direction !== 'write') throw new ArmatureError('USAGE_DIRECTION_UNKNOWN', `--direction ${direction}: there is no such direction`, { hint: 'read, write or both' });
    for (const batch of parseSizes(options.batch, '--batch')) for (const blockBytes of parseSizes(options.block, '--block')) cells.push({ direction, blockBytes, batch });
  }
  return cells;
}

/** One cell: its fields at the top, too. */
function report(rows: readonly Row[]): unknown {
  const machine = { cpu: os.cpus()[0]?.model.trim(), cores: os.cpus().length, node: process.version };
  return rows.length === 1 ? { ...rows[0], rows, machine } : { rows, machine };
}

function table(rows: readonly Row[]): string {
  const head = ['transport', 'op', 'block', 'batch', 'GB/s', 'memcpy', 'ratio', 'p50 µs', 'p99 µs', 'CPU µs', 'µs/block'];
  const lines = rows.map((row) => {
    const copy = row.memcpyGbPerSecond;
    return [
      row.transport,
      row.direction,
      sizeText(row.blockBytes),
      String(row.batch),
      row.gbPerSecond.toFixed(2),
      copy === undefined ? '–' : `${copy.toFixed(2)}${row.memcpyOnSameMemory ? '' : '*'}`,
      copy === undefined ? '–' : (row.gbPerSecond / copy).toFixed(2),
      row.p50Us.toFixed(1),
      row.p99Us.toFixed(1),
      row.cpuUs.toFixed(0),
      (row.p50Us / row.batch).toFixed(2),
    ];
  });
  const widths = head.map((name, i) => Math.max(name.length, ...lines.map((line) => line[i]!.length)));
  const text = (cells: readonly string[]): string => cells.map((cell, i) => (i < 3 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join('  ');
  const notes = ['memcpy: one libc memcpy per block in random order, one thread, in turns with the transfers'];
  if (rows.some((row) => row.memcpyGbPerSecond !== undefined && !row.memcpyOnSameMemory)) notes.push('* on two private buffers of the initiator: the memory of the target cannot be mapped');
  return `${[text(head), ...lines.map(text), '', ...notes].join('\n')}\n`;
}

/** A bar on a terminal, nothing in a pipe. */
class Progress {
  readonly #total: number;
  #done = 0;

  constructor(total: number) {
    this.#total = total;
  }

  show(what: string): void {
    if (!process.stderr.isTTY) return;
    const filled = Math.round((20 * this.#done) / this.#total);
    process.stderr.write(`\r\u001b[K[${'█'.repeat(filled)}${'·'.repeat(20 - filled)}] ${this.#done}/${this.#total} ${what}`);
  }

  step(): void {
    this.#done++;
  }

  end(): void {
    if (process.stderr.isTTY) process.stderr.write('\r\u001b[K');
  }
}
