// `node tools/planner/plot.mjs`: draws the learning curve of packages/planner/data/rl-training.csv as docs/training-curve.svg.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [720, 320, 64, 16, 28, 48];

export function plotCurve(root) {
  const rows = readFileSync(join(root, 'packages/planner/data/rl-training.csv'), 'utf8').trim().split('\n').slice(1).map((line) => line.split(',').map(Number));
  const points = rows.map(([, episodes, , validation]) => [episodes, validation]);
  const most = Math.max(...points.map(([episodes]) => episodes), 1);
  const values = points.map(([, value]) => value);
  const pad = Math.max(0.02, 0.1 * (Math.max(...values) - Math.min(...values)));
  const [low, high] = [Math.min(...values) - pad, Math.max(...values) + pad];
  const x = (episodes) => LEFT + ((WIDTH - LEFT - RIGHT) * episodes) / most;
  const y = (value) => HEIGHT - BOTTOM - ((HEIGHT - BOTTOM - TOP) * (value - low)) / (high - low);
  let best = -Infinity;
  const kept = points.map(([episodes, value]) => [episodes, (best = Math.max(best, value))]);
  const line = (list, style) => `<polyline fill="none" ${style} points="${list.map(([episodes, value]) => `${x(episodes).toFixed(1)},${y(value).toFixed(1)}`).join(' ')}"/>`;
  const ticks = Array.from({ length: 5 }, (_, i) => low + ((high - low) * i) / 4);
  const times = Array.from({ length: 5 }, (_, i) => (most * i) / 4);
  const svg = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="12">`,
    `<rect width="${WIDTH}" height="${HEIGHT}" fill="#fff"/>`,
    `<text x="${LEFT}" y="16" font-size="13">Training of the rl policy: reward per request on eight validation episodes</text>`,
    ...ticks.map((value) => `<path d="M${LEFT} ${y(value).toFixed(1)}H${WIDTH - RIGHT}" stroke="#ddd"/><text x="${LEFT - 8}" y="${(y(value) + 4).toFixed(1)}" text-anchor="end">${value.toFixed(2)}</text>`),
    ...times.map((episodes) => `<text x="${x(episodes).toFixed(1)}" y="${HEIGHT - BOTTOM + 18}" text-anchor="middle">${Math.round(episodes).toLocaleString('en-US')}</text>`),
    `<text x="${(LEFT + WIDTH - RIGHT) / 2}" y="${HEIGHT - 10}" text-anchor="middle">episodes of one hour</text>`,
    line(points, 'stroke="#9bb8d9" stroke-width="1.5"'),
    line(kept, 'stroke="#1f5fa8" stroke-width="2"'),
    `<text x="${WIDTH - RIGHT}" y="${(y(kept.at(-1)[1]) - 8).toFixed(1)}" text-anchor="end" fill="#1f5fa8">best so far: ${kept.at(-1)[1].toFixed(3)}</text>`,
    '</svg>',
  ];
  writeFileSync(join(root, 'docs/training-curve.svg'), `${svg.join('\n')}\n`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) plotCurve(fileURLToPath(new URL('../..', import.meta.url)));
