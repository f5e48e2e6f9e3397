import net from 'node:net';
import { describe, expect, test } from 'vitest';
import { ArmatureError } from '@armature/contracts';
import type { TransferPlan } from '@armature/contracts';
import { FakeTransferHost } from '@armature/contracts/testing/transfer-transport';
import { descriptors } from '../descriptors.ts';
import { realClock, recordingLogger } from '../test-clock.test.support.ts';
import { CHUNK_BYTES, decodeTable, encodeTable, FrameReader, FrameType, header, MAX_TABLE_BYTES } from './frames.ts';
import { decodeHello, encodeHello, helloProof } from './handshake.ts';
import { splitPlan } from './parts.ts';
import type { TcpEndpoint } from './tcp-endpoint.ts';
import { TcpTransport } from './tcp-transport.ts';

function random(seed: number): (bound: number) => number {
  let state = seed;
  return (bound) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state % bound;
  };
}

describe('codec', () => {
  test('tables round trip, offsets beyond 4 GiB included', () => {
    const columns = descriptors([
      { segment: 1, offset: 0, length: 0 },
      { segment: 0x7fff_ffff, offset: 2 ** 52 + 5, length: 0x7fff_ffff },
    ]);
    expect(decodeTable(encodeTable(columns))).toEqual(columns);
    expect(() => decodeTable(Buffer.alloc(17))).toThrow(ArmatureError);
    expect(() => decodeTable(Buffer.alloc(16, 0xff))).toThrow(ArmatureError);
  });

  test('frames come out the same however the stream is cut (seeded)', () => {
    const stream = Buffer.concat([header(FrameType.Read, 7, 0, 32), Buffer.alloc(32, 1), header(FrameType.Data, 8, 0, 5), Buffer.from('hello'), header(FrameType.Cancel, 9, -3, 0)]);
    console.log('cut streams: seeds 1 to 199');
    for (let seed = 1; seed < 200; seed++) {
      const below = random(seed);
      const got: string[] = [];
      const reader = new FrameReader({
        limit: () => 100,
        frame: (type, request, value, body) => got.push(`${type}/${request}/${value}/${body.length}`),
        dataBegin: (request, length) => got.push(`data ${request} ${length} `),
        data: (bytes) => (got[got.length - 1] += bytes.toString()),
      });
      for (let at = 0; at < stream.length; ) {
        const take = 1 + below(20);
        reader.push(stream.subarray(at, at + take));
        at += take;
      }
      expect(got, `seed ${seed}`).toEqual(['4/7/0/32', 'data 8 5 hello', '9/9/-3/0']);
    }
  });

  test('hello: torn bodies throw a code', () => {
    const hello = { nonce: Buffer.alloc(16, 1), name: 'a', incarnation: '1', peerIncarnation: '2' };
    const body = encodeHello({ ...hello, proof: helloProof('t', Buffer.alloc(16), hello) });
    expect(decodeHello(body)).toMatchObject({ name: 'a', incarnation: '1', peerIncarnation: '2' });
    for (let length = 0; length < body.length; length++) expect(() => decodeHello(body.subarray(0, length))).toThrow(ArmatureError);
  });

  test('parts of a plan cover it exactly, in order', () => {
    console.log('plans cut to parts: seeds 1 to 99');
    for (let seed = 1; seed < 100; seed++) {
      const below = random(seed);
      const rows = Array.from({ length: 1 + below(20) }, (_, i) => ({ segment: i, offset: below(1000), length: below(5) === 0 ? 0 : below(300_000) }));
      const columns = descriptors(rows);
      const bytes = rows.reduce((sum, { length }) => sum + length, 0);
      const plan: TransferPlan = { op: 'read', peer: 'b', local: columns, remote: columns, bytes };
      const parts = splitPlan(plan, 1 + below(5), 65_536);
      expect(parts.reduce((sum, part) => sum + part.bytes, 0), `seed ${seed}`).toBe(bytes);
      const joined: string[] = [];
      for (const part of parts) {
        expect(decodeTable(part.table)).toEqual({ ...part.local, segments: part.local.segments.slice(), offsets: part.local.offsets.slice(), lengths: part.local.lengths.slice() });
        for (let i = 0; i < part.local.count; i++) if (part.local.lengths[i]! > 0) joined.push(`${part.local.segments[i]}:${part.local.offsets[i]}+${part.local.lengths[i]}`);
      }
      const merged = joined.reduce<string[]>((all, text) => {
        const [segment, offset, length] = text.split(/[:+]/).map(Number) as [number, number, number];
        const last = all.at(-1)?.split(/[:+]/).map(Number);
        if (last !== undefined && last[0] === segment && last[1]! + last[2]! === offset) all[all.length - 1] = `${segment}:${last[1]}+${last[2]! + length}`;
        else all.push(text);
        return all;
      }, []);
      expect(merged, `seed ${seed}`).toEqual(rows.filter(({ length }) => length > 0).map(({ segment, offset, length }) => `${segment}:${offset}+${length}`));
    }
  });
});

describe('a hostile initiator', () => {
  async function attack(bytes: (challenge: Buffer) => Buffer): Promise<{ refused: string[]; host: FakeTransferHost }> {
    const host = new FakeTransferHost('owner');
    host.add(1000);
    const endpoint = (await new TcpTransport({ clock: realClock, log: recordingLogger(), connectTimeoutMs: 200 }).open(host)) as TcpEndpoint;
    const { port } = endpoint.metadata() as { port: number };
    const socket = net.connect({ host: '127.0.0.1', port });
    socket.on('error', () => undefined);
    const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
    const challenge = await new Promise<Buffer>((resolve) => socket.once('data', resolve));
    socket.on('data', () => undefined);
    socket.write(bytes(challenge.subarray(24)));
    await closed;
    await endpoint.close();
    host.assertGuards();
    return { refused: [...endpoint.refused.keys()], host };
  }
  const hello = (challenge: Buffer): Buffer => {
    const facts = { nonce: Buffer.alloc(16, 5), name: 'x', incarnation: '1', peerIncarnation: 'owner-1' };
    const body = encodeHello({ ...facts, proof: helloProof('', challenge, facts) });
    return Buffer.concat([header(FrameType.Hello, 0, 0, body.length), body]);
  };

  test('is disconnected with a code for each malformed frame', async () => {
    const after = (frame: Buffer) => (challenge: Buffer) => Buffer.concat([hello(challenge), frame]);
    const big = header(FrameType.Read, 1, 0, MAX_TABLE_BYTES + 16);
    const attacks: ((challenge: Buffer) => Buffer)[] = [
      () => Buffer.alloc(24, 0xff),
      () => header(FrameType.Read, 1, 0, 16),
      () => header(FrameType.Hello, 0, 0, 0x7fff_ffff),
      after(big),
      after(header(FrameType.Data, 1, 0, CHUNK_BYTES + 1)),
      after(header(FrameType.Welcome, 1, 0, 0)),
      after(header(99, 1, 0, 0)),
      after(Buffer.concat([header(FrameType.Read, 1, 0, 17), Buffer.alloc(17)])),
      after(Buffer.concat([header(FrameType.Write, 1, 0, 16), encodeTable(descriptors([{ segment: 1, offset: 0, length: 10 }])), header(FrameType.Data, 1, 0, 11)])),
      after(Buffer.concat([header(FrameType.Write, 1, 0, 16), encodeTable(descriptors([{ segment: 1, offset: 0, length: 10 }])), header(FrameType.Commit, 1, 0, 0)])),
    ];
    for (const bytes of attacks) expect((await attack(bytes)).refused).toEqual(['TRANSFER_FRAME_INVALID']);
  });

  test('random bytes after the hello never crash and never write (seeded)', async () => {
    console.log('noise after the hello: seeds 1 to 30, times 7919');
    for (let seed = 1; seed <= 30; seed++) {
      const below = random(seed * 7919);
      const noise = Buffer.from(Array.from({ length: 24 + below(400) }, () => below(256)));
      const { refused, host } = await attack((challenge) => Buffer.concat([hello(challenge), noise]));
      expect(refused, `seed ${seed}`).toEqual(['TRANSFER_FRAME_INVALID']);
      expect(host.notifications).toEqual([]);
    }
  });

  test('silence is cut after the connect time', async () => {
    expect((await attack(() => Buffer.alloc(0))).refused).toEqual([]);
  });
});
