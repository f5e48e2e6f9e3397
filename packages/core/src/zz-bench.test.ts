import { it } from 'vitest';
import { VirtualClock, MemoryRequestPlane, MemoryEventPlane, MsgpackCodec, PinoLogger, SystemClock } from '/work/main/packages/core/src/index.ts';
it('bench', async () => {
  for (let r = 0; r < 2; r++) {
  const clock = new VirtualClock();
  let n = 0;
  const N = 1_000_000;
  for (let i = 0; i < 100; i++) { const tick = () => { if (++n < N) clock.setTimer(i % 7, tick); }; clock.setTimer(i, tick); }
  let t = performance.now();
  await clock.runUntilIdle();
  console.log('virtual events/ms', (N / (performance.now() - t)).toFixed(0));
  n = 0;
  const loop = async () => { while (n++ < 300_000) await clock.sleep(1); };
  t = performance.now();
  const ps = Promise.all(Array.from({ length: 50 }, loop));
  await clock.runUntilIdle(); await ps;
  console.log('virtual sleeps/ms', (300_000 / (performance.now() - t)).toFixed(0));
  for (const encode of [false, true]) {
    const base = { encode, codec: new MsgpackCodec(), clock: new SystemClock(), log: new PinoLogger({ level: 'silent' }) };
    const plane = new MemoryRequestPlane({ ...base, highWaterMessages: 1000, maxBufferedMessages: 1e6 });
    let got = 0;
    const { address } = await plane.serve('x', (_o, s) => ({ message: (m) => void s.send(m), closed: () => undefined }));
    const streams = Array.from({ length: 100 }, () => plane.open(address, { method: 'm', message: { type: 'o' }, deadlineMs: 1e6 }, { message: () => void got++, closed: () => undefined }));
    t = performance.now();
    const msg = { type: 'tokens', ids: Int32Array.of(1, 2, 3, 4), n: 5 };
    for (let k = 0; k < 1000; k++) { for (const s of streams) s.send(msg); await new Promise((r) => setImmediate(r)); }
    const ms = performance.now() - t;
    console.log('request plane echo', encode, 'us/msg (round trip)', (ms * 1000 / got).toFixed(2), got);
    plane.close();
    const ev = new MemoryEventPlane({ ...base, bufferEvents: 1000 });
    let e = 0; ev.subscribe('a/', () => void e++);
    t = performance.now();
    for (let k = 0; k < 300_000; k++) ev.publish('a/b', msg);
    console.log('events', encode, 'us/event', ((performance.now() - t) * 1000 / e).toFixed(2));
  }
  }
}, 60_000);
