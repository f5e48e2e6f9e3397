import { expect, test } from 'vitest';
import { agentOf, BYE, decodeFrame, goneFrame, helloFrame, MAX_NOTIFICATION_BYTES, nixlName, PING, userFrame } from './frames.ts';

test('round trips', () => {
  expect(decodeFrame(userFrame(Uint8Array.of(1, 2)))).toEqual({ type: 'user', payload: Uint8Array.of(1, 2) });
  expect(decodeFrame(userFrame(new Uint8Array(0)))).toEqual({ type: 'user', payload: new Uint8Array(0) });
  expect(decodeFrame(goneFrame(70_000))).toEqual({ type: 'gone', segments: [70_000] });
  expect(decodeFrame(helloFrame(Uint8Array.of(3)))).toEqual({ type: 'hello', connection: Uint8Array.of(3) });
  expect([decodeFrame(BYE), decodeFrame(PING)]).toEqual([{ type: 'bye' }, { type: 'ping' }]);
});

test('whatever arrives: a frame or undefined, never a throw', () => {
  const seed = 20_261;
  let state = seed;
  const below = (bound: number): number => (state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0) % bound;
  for (let i = 0; i < 20_000; i++) {
    const bytes = Uint8Array.from({ length: below(40) }, () => below(below(2) === 0 ? 6 : 256));
    const frame = decodeFrame(bytes);
    expect(frame === undefined || bytes[0]! <= 4, `seed ${seed}, round ${i}`).toBe(true);
    agentOf(Buffer.from(bytes).toString());
  }
  expect([decodeFrame(new Uint8Array(0)), decodeFrame(new Uint8Array(MAX_NOTIFICATION_BYTES + 2)), decodeFrame(Uint8Array.of(2, 1)), decodeFrame(Uint8Array.of(9))]).toEqual([undefined, undefined, undefined, undefined]);
});

test('names: one per life, reversible, whatever the agent is called', () => {
  for (const name of ['a', 'prefill/0', 'a#b', 'ü %41', '#']) expect(agentOf(nixlName(name, 'x#y'))).toBe(name);
  expect(nixlName('a', '1')).not.toBe(nixlName('a', '2'));
  for (const foreign of ['', 'plain', 'a#b#c', '#x', '%zz#1']) expect(agentOf(foreign)).toBeUndefined();
});
