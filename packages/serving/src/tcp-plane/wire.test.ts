import { describe, expect, test } from 'vitest';
import { ArmatureError } from '@armature/contracts';
import type { PlaneMessage } from '@armature/contracts';
import { OutBuffer } from './out-buffer.ts';
import { Frame, FrameReader, HEADER_BYTES, isTokens, readTokens, tokensBytes, writeTokens } from './wire.ts';

function random(seed: number): (bound: number) => number {
  let state = seed >>> 0;
  return (bound) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 4_294_967_296) * bound);
  };
}

function tokens(below: (bound: number) => number): PlaneMessage {
  const count = below(6);
  const topCount = below(2) * below(21);
  const hasTop = topCount > 0;
  return {
    type: 'tokens',
    count,
    tokenIds: Int32Array.from({ length: count }, () => below(2 ** 31) - 5),
    choices: below(2) === 0 ? undefined : Uint8Array.from({ length: count }, () => below(256)),
    finish: Uint8Array.from({ length: count }, () => below(4)),
    logprobs: below(2) === 0 ? undefined : Float32Array.from({ length: count }, () => -below(100) / 7),
    topCount,
    topTokenIds: hasTop ? Int32Array.from({ length: count * topCount }, () => below(1000) - 1) : undefined,
    topLogprobs: hasTop ? Float32Array.from({ length: count * topCount }, () => -below(100) / 3) : undefined,
  };
}

function written(message: PlaneMessage): Buffer {
  const bytes = Buffer.alloc(tokensBytes(message) + 10, 0xee);
  writeTokens(message, bytes, 3);
  expect([bytes[2], bytes[bytes.length - 7]]).toEqual([0xee, 0xee]);
  return bytes.subarray(3, bytes.length - 7);
}

describe('tokens frame', () => {
  test('round trips (seeded), and says what does not fit it', () => {
    for (let seed = 1; seed <= 300; seed++) {
      const message = tokens(random(seed));
      expect(isTokens(message), `seed ${seed}`).toBe(true);
      expect(readTokens(written(message)), `seed ${seed}`).toEqual(message);
    }
    const good = tokens(random(3));
    for (const bad of [{ ...good, extra: 1 }, { ...good, count: 99 }, { ...good, finish: new Uint8Array(99) }, { ...good, tokenIds: [1] }, { ...good, topCount: 300 }, { type: 'tokens', tokenIds: good['tokenIds'], finish: good['finish'] }, { ...good, type: 'text' }]) {
      expect(isTokens(bad as PlaneMessage)).toBe(false);
    }
  });

  test('golden bytes, as docs/reference/request-plane.md shows them', () => {
    const message: PlaneMessage = { type: 'tokens', count: 2, tokenIds: Int32Array.of(7, 300), choices: undefined, finish: Uint8Array.of(0, 1), logprobs: undefined, topCount: 0, topTokenIds: undefined, topLogprobs: undefined };
    const out = new OutBuffer();
    const { slab, at } = out.begin(Frame.Tokens, 5, tokensBytes(message));
    writeTokens(message, slab, at);
    expect(Buffer.concat(out.take()).toString('hex')).toBe('17000000_06_05000000_02000000_00_00_0000_07000000_2c010000_00_01'.replaceAll('_', ''));
  });

  test('torn and lying frames throw a code and allocate nothing large', () => {
    const body = written(tokens(random(12)));
    for (let length = 0; length < body.length; length++) expect(() => readTokens(body.subarray(0, length))).toThrow(ArmatureError);
    const lying = Buffer.from(body);
    lying.writeUInt32LE(0xffff_ffff, 0);
    expect(() => readTokens(lying)).toThrow(ArmatureError);
  });
});

describe('frame reader', () => {
  test('frames come out the same however the stream is cut (seeded)', () => {
    const out = new OutBuffer();
    const bodies = [0, 1, 5, 300, 20_000, 70_000, 3].map((length, i) => Buffer.alloc(length, i + 1));
    bodies.forEach((body, i) => out.append(i + 1, i * 7, body));
    const stream = Buffer.concat(out.take());
    for (let seed = 1; seed < 100; seed++) {
      const below = random(seed);
      const got: string[] = [];
      const reader = new FrameReader(1 << 20, (type, id, body) => got.push(`${type}/${id}/${body.equals(bodies[type - 1]!)}`));
      for (let at = 0; at < stream.length; ) {
        const take = 1 + below([2, 9, 1000, 100_000][below(4)]!);
        reader.push(stream.subarray(at, at + take));
        at += take;
      }
      expect(got, `seed ${seed}`).toEqual(bodies.map((_, i) => `${i + 1}/${i * 7}/true`));
    }
  });

  test('random bytes end in a code or in waiting, and never ask for more than the limit', () => {
    const allocate = Buffer.allocUnsafe;
    let largest = 0;
    Buffer.allocUnsafe = (size) => {
      largest = Math.max(largest, size);
      return allocate(size);
    };
    try {
      for (let seed = 1; seed <= 500; seed++) {
        const below = random(seed);
        const reader = new FrameReader(4096, () => undefined);
        try {
          for (let i = 0; i < 20; i++) reader.push(Buffer.from(Array.from({ length: below(64) }, () => (below(3) === 0 ? 0 : below(256)))));
        } catch (error) {
          expect((error as ArmatureError).code, `seed ${seed}`).toBe('PLANE_FRAME_INVALID');
        }
      }
    } finally {
      Buffer.allocUnsafe = allocate;
    }
    expect(largest).toBeLessThanOrEqual(4096);
  });

  test('a length above the limit or below the header is refused at once', () => {
    const reader = (): FrameReader => new FrameReader(100, () => undefined);
    for (const length of [0, 4, 101, 0xffff_ffff]) {
      const head = Buffer.alloc(HEADER_BYTES);
      head.writeUInt32LE(length);
      expect(() => reader().push(head)).toThrow(ArmatureError);
    }
  });
});
