import { describe, expect, it } from 'vitest';
import type { Row } from './measure.ts';
import { plotSvg } from './plot.ts';
import { parseSizes, sizeText } from './sizes.ts';

describe('sizes', () => {
  it.each([
    ['64KiB', [65_536]],
    ['1,16,256', [1, 16, 256]],
    ['4KiB..16KiB', [4096, 8192, 16_384]],
    ['1.5MiB', [1_572_864]],
    ['512', [512]],
  ])('%s', (text, values) => expect(parseSizes(text, '--block')).toEqual(values));

  it.each(['', '64XB', '-1', '0', '1..', '64KiB..4KiB', '1..1GiB,1..1GiB,1..4GiB'])('"%s" is refused with what to write', (text) => {
    expect(() => parseSizes(text, '--block')).toThrow(expect.objectContaining({ code: 'USAGE_SIZE_INVALID', hint: expect.any(String) }));
  });

  it('reads back', () => expect([512, 65_536, 3 << 20].map(sizeText)).toEqual(['512 B', '64 KiB', '3 MiB']));
});

it('the plot has a line per transport and batch, memcpy dashed, and is whole XML', () => {
  const row = (transport: string, blockBytes: number, gbPerSecond: number): Row => ({ transport, direction: 'read', blockBytes, batch: 256, gbPerSecond, p50Us: 1, p99Us: 2, cpuUs: 1, rounds: 10, memcpyGbPerSecond: 12, memcpyOnSameMemory: true });
  const svg = plotSvg([row('shm', 16_384, 8), row('shm', 65_536, 10), row('tcp', 16_384, 2)], 'a < b & c');
  expect(svg.match(/<polyline/g)).toHaveLength(4);
  expect(svg.match(/stroke-dasharray/g)).toHaveLength(4);
  expect(svg).toContain('a &lt; b &amp; c');
  expect(svg).not.toMatch(/NaN|undefined/);
  expect(svg.match(/<(\w+)/g)?.length).toBeGreaterThan(20);
});
