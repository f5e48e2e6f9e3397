import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { saltHash, sequenceHashes } from '@armature/tokens';
import type { KvEvent } from '@armature/contracts';
import { BatchReader } from './batch-reader.ts';
import { EngineBlocks } from './engine-blocks.ts';

interface Fixture {
  readonly vllm: string;
  readonly messages: Readonly<Record<'int' | 'bytes', readonly string[]>>;
}

const folder = new URL('../../fixtures/', import.meta.url);
const fixtures = readdirSync(folder).filter((name) => /^\d/.test(name)).map((name) => JSON.parse(readFileSync(new URL(`${name}/events.json`, folder), 'utf8')) as Fixture);
const tokens = (...blocks: number[]): Int32Array => Int32Array.from(blocks.flatMap((block) => Array.from({ length: 4 }, (_, i) => block * 1000 + i * 37)));
const chain = (blocks: number[], salt: { cacheSalt?: string; lora?: string } = {}): number[] => [...sequenceHashes(tokens(...blocks), blocks.length * 4, 4, saltHash(salt))];
const plain = (event: KvEvent): object => ({ ...event, ...('parent' in event ? { parent: [...event.parent] } : {}), ...('sequenceHashes' in event ? { sequenceHashes: [...event.sequenceHashes] } : {}) });

/** What is told of the story in `fixtures/make-fixtures.py`, by what the release can say. */
function expected(version: string): object[] {
  const [, minor = 0] = version.split('.').map(Number);
  const hasNames = minor >= 14;
  const hasExtraKeys = minor >= 20;
  const events: object[] = [
    { type: 'stored', parent: [], sequenceHashes: chain([1, 2]), tier: 'device' },
    { type: 'stored', parent: chain([1, 2]).slice(2), sequenceHashes: chain([1, 2, 3]).slice(4), tier: 'device' },
    { type: 'removed', sequenceHashes: chain([1, 2, 3]).slice(4), tier: 'device' },
    ...(hasNames ? [{ type: 'stored', parent: [], sequenceHashes: chain([11], { lora: 'adapter' }), tier: 'device' }] : []),
    { type: 'stored', parent: [], sequenceHashes: hasExtraKeys ? chain([12], { cacheSalt: 'tenant' }) : chain([12]), tier: 'device', ...(hasExtraKeys ? { cacheSalt: 'tenant' } : {}) },
    { type: 'stored', parent: [], sequenceHashes: hasExtraKeys ? chain([13]) : chain([13, 14]), tier: 'device' },
    { type: 'stored', parent: [], sequenceHashes: chain([21]), tier: 'host' },
    { type: 'cleared', tier: 'device' },
    { type: 'stored', parent: [], sequenceHashes: chain([1]), tier: 'device' },
  ];
  return events.map((event, i) => Object.assign(event, { eventId: i + 1 }));
}

describe.each(fixtures)('vLLM $vllm', ({ vllm, messages }) => {
  test.each(['int', 'bytes'] as const)('its events with hashes as %s become ours', (form) => {
    const events: KvEvent[] = [];
    const blocks = new EngineBlocks(4, (event) => events.push(event));
    const reader = new BatchReader();
    for (const [i, hex] of messages[form].entries()) {
      const payload = Buffer.from(hex, 'hex');
      expect(reader.timeOf(payload)).toBe(1795328675.7 + i);
      reader.read(payload, blocks);
      blocks.flush();
    }
    expect(events.map(plain), vllm).toEqual(expected(vllm));
    expect(blocks.counts).toMatchObject({ ignoredEvents: 0, orphanBlocks: 0, misshapenBlocks: 0, unknownRemovals: 0, cleared: 1, storedBlocks: 9 });
    // The adapter of 0.11 has no name; the image's block is nobody else's.
    expect(blocks.counts.foreignBlocks).toBe(vllm === '0.11.0' ? 1 : Number(vllm.split('.')[1]) >= 20 ? 1 : 0);
    expect(blocks.snapshot().map(plain)).toEqual([
      { type: 'stored', eventId: events.length - 1, parent: [], sequenceHashes: chain([1]), tier: 'device' },
      { type: 'stored', eventId: events.length, parent: [], sequenceHashes: chain([21]), tier: 'host' },
    ]);
  });

  test('cut or changed anywhere, a message is refused with a code or read as another one: nothing else is thrown', () => {
    const reader = new BatchReader();
    let refused = 0;
    const outcome = (bytes: Uint8Array): void => {
      try {
        reader.read(bytes, new EngineBlocks(4, () => undefined));
      } catch (error) {
        expect((error as { code?: string }).code).toBe('VLLM_EVENT_INVALID');
        refused++;
      }
    };
    for (const hex of messages.int) {
      const payload = Buffer.from(hex, 'hex');
      for (let cut = 0; cut < payload.length; cut++) outcome(payload.subarray(0, cut));
      const cuts = refused;
      expect(cuts).toBeGreaterThan(0);
      for (let at = 0; at < payload.length; at++) {
        const changed = Buffer.from(payload);
        changed[at] = (changed[at]! + 0x5b) & 0xff;
        outcome(changed);
      }
    }
  });
});

test('there is a fixture for every form of the format', () => {
  expect(fixtures.map(({ vllm }) => vllm).sort()).toEqual(['0.11.0', '0.16.0', '0.20.2', '0.22.1', '0.24.0', '0.28.0', '0.32.0', '0.33.0']);
});
