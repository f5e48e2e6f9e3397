import { seeded } from '@armature/contracts/testing/plane-support';
import { describe, expect, it } from 'vitest';
import { Outbox } from './outbox.ts';

const EVENT = 8 + 128;

describe('outbox', () => {
  it.each(Array.from({ length: 40 }, (_, seed) => seed))('in order, bounded, the oldest lost and counted, whatever the server does (seed %i)', async (seed) => {
    const below = seeded(seed);
    const sent: number[] = [];
    let dropped = 0;
    let confirms: (() => void)[] = [];
    let isConnected = false;
    const outbox = new Outbox({
      capacityBytes: 50 * EVENT,
      windowBytes: 40 * EVENT,
      dropped: { inc: () => void dropped++ },
      send: (_subject, payload) => {
        expect(isConnected).toBe(true);
        sent.push(Number(Buffer.from(payload).readBigUInt64LE()));
      },
      confirm: () => new Promise((resolve) => void confirms.push(resolve)),
    });
    let unconfirmed = 0;
    for (let n = 0; n < 2000; n++) {
      const payload = Buffer.alloc(8);
      payload.writeBigUInt64LE(BigInt(n));
      const before = sent.length;
      outbox.push('s', payload);
      expect(outbox.waitingBytes).toBeLessThanOrEqual(50 * EVENT);
      unconfirmed += sent.length - before;
      if (below(100) === 0) {
        isConnected = !isConnected;
        confirms = [];
        unconfirmed = 0;
        const at = sent.length;
        if (isConnected) outbox.connected();
        else outbox.disconnected();
        unconfirmed += sent.length - at;
      }
      if (below(30) === 0) {
        const at = sent.length;
        for (const confirm of confirms.splice(0)) {
          confirm();
          unconfirmed -= 5;
        }
        await Promise.resolve().then(() => undefined);
        unconfirmed += sent.length - at;
      }
      expect(unconfirmed).toBeLessThanOrEqual(46);
    }
    isConnected = true;
    outbox.connected();
    while (confirms.length > 0) {
      for (const confirm of confirms.splice(0)) confirm();
      await Promise.resolve().then(() => undefined);
    }
    expect(sent).toEqual([...new Set(sent)].sort((a, b) => a - b));
    expect(sent.length + dropped).toBe(2000);
    expect(sent.at(-1)).toBe(1999);
  });
});
