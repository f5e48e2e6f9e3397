import type { Row } from './measure.ts';
import { sizeText } from './sizes.ts';

const WIDTH = 860;
const HEIGHT = 480;
const LEFT = 70;
const RIGHT = 210;
const TOP = 50;
const BOTTOM = 60;
const COLORS = ['#1668c7', '#c2571a', '#2a8a4a', '#8a3ab9', '#b8860b', '#d0356e', '#357a8a', '#555555'];

interface Line {
  readonly name: string;
  readonly color: string;
  readonly dash: boolean;
  readonly points: readonly { readonly x: number; readonly y: number }[];
}

/** GB/s against block size (logarithmic), one line per transport, direction and batch; memcpy dashed. A self-contained SVG. */
export function plotSvg(rows: readonly Row[], title: string): string {
  const lines = linesOf(rows);
  const sizes = [...new Set(rows.map((row) => row.blockBytes))].sort((a, b) => a - b);
  const most = Math.max(1, ...lines.flatMap((line) => line.points.map((point) => point.y)));
  const top = niceCeiling(most);
  const x = (bytes: number): number => {
    const [low, high] = [Math.log2(sizes[0] ?? 1), Math.log2(sizes.at(-1) ?? 2)];
    return LEFT + (high === low ? 0.5 : (Math.log2(bytes) - low) / (high - low)) * (WIDTH - LEFT - RIGHT);
  };
  const y = (value: number): number => HEIGHT - BOTTOM - (value / top) * (HEIGHT - TOP - BOTTOM);
  const ticks = Array.from({ length: 6 }, (_, i) => (top * i) / 5);
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${HEIGHT}" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="system-ui, sans-serif" font-size="12">`,
    `<rect width="100%" height="100%" fill="white"/><text x="${LEFT}" y="26" font-size="15" font-weight="600">${escape(title)}</text>`,
    ...ticks.map((tick) => `<line x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${y(tick)}" y2="${y(tick)}" stroke="#e4e4e4"/><text x="${LEFT - 8}" y="${y(tick) + 4}" text-anchor="end">${+tick.toFixed(2)}</text>`),
    ...sizes.map((size) => `<line x1="${x(size)}" x2="${x(size)}" y1="${TOP}" y2="${HEIGHT - BOTTOM}" stroke="#f1f1f1"/><text x="${x(size)}" y="${HEIGHT - BOTTOM + 18}" text-anchor="middle">${sizeText(size)}</text>`),
    `<text x="${(LEFT + WIDTH - RIGHT) / 2}" y="${HEIGHT - 14}" text-anchor="middle">block size</text>`,
    `<text transform="translate(18 ${(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">GB/s (1e9 bytes per second, median)</text>`,
    ...lines.flatMap((line, i) => drawLine(line, i, x, y)),
    '</svg>',
  ];
  return `${parts.join('\n')}\n`;
}

function linesOf(rows: readonly Row[]): Line[] {
  const groups = new Map<string, Row[]>();
  for (const row of rows) {
    const name = `${row.transport} ${row.direction}, batch ${row.batch}`;
    groups.set(name, [...(groups.get(name) ?? []), row]);
  }
  return [...groups].flatMap(([name, group], i) => {
    const sorted = [...group].sort((a, b) => a.blockBytes - b.blockBytes);
    const color = COLORS[i % COLORS.length]!;
    const ours: Line = { name, color, dash: false, points: sorted.map((row) => ({ x: row.blockBytes, y: row.gbPerSecond })) };
    const copies = sorted.filter((row) => row.memcpyGbPerSecond !== undefined);
    return copies.length === 0 ? [ours] : [ours, { name: `memcpy beside it`, color, dash: true, points: copies.map((row) => ({ x: row.blockBytes, y: row.memcpyGbPerSecond ?? 0 })) }];
  });
}

function drawLine(line: Line, i: number, x: (bytes: number) => number, y: (value: number) => number): string[] {
  const dash = line.dash ? ' stroke-dasharray="5 4" opacity="0.6"' : '';
  const points = line.points.map((point) => `${x(point.x).toFixed(1)},${y(point.y).toFixed(1)}`).join(' ');
  const legendY = TOP + 10 + i * 20;
  return [
    `<polyline points="${points}" fill="none" stroke="${line.color}" stroke-width="2"${dash}/>`,
    ...(line.dash ? [] : line.points.map((point) => `<circle cx="${x(point.x).toFixed(1)}" cy="${y(point.y).toFixed(1)}" r="3" fill="${line.color}"/>`)),
    `<line x1="${WIDTH - RIGHT + 16}" x2="${WIDTH - RIGHT + 40}" y1="${legendY}" y2="${legendY}" stroke="${line.color}" stroke-width="2"${dash}/>`,
    `<text x="${WIDTH - RIGHT + 46}" y="${legendY + 4}">${escape(line.name)}</text>`,
  ];
}

function niceCeiling(value: number): number {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10].map((step) => step * power).find((step) => step >= value) ?? value;
}

function escape(text: string): string {
  return text.replace(/[&<>]/g, (char) => (char === '&' ? '&amp;' : char === '<' ? '&lt;' : '&gt;'));
}
