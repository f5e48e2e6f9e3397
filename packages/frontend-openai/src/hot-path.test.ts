import { expect, test } from 'vitest';
import { FakeModel } from '@armature/contracts/testing/fake-model';
import { readChatStream } from '@armature/contracts/testing/frontend';
import { eventually } from '@armature/contracts/testing/http-server';
import { RawHttpClient } from '@armature/contracts/testing/raw-http';
import { FinishCode } from '@armature/contracts';
import { seeded } from './fake-context.test.fixture.ts';
import { Flusher } from './flusher.ts';
import type { Flushable } from './flusher.ts';
import { escapeJson, jsonBytes, jsonLogprob } from './json-text.ts';
import { serving } from './serving.test.fixture.ts';

test('escaped text is what JSON.stringify makes of it', () => {
  const random = seeded(11);
  const letters = ['a', '"', '\\', '\n', '\u0000', '\u001f', '\u007f', 'é', '\u2028', '🦙', '\ud83e', '\udd99', '/', ' '];
  for (let i = 0; i < 20_000; i++) {
    let text = '';
    for (let k = random.below(8); k > 0; k--) text += letters[random.below(letters.length)];
    const literal = `"${escapeJson(text)}"`;
    expect(JSON.parse(literal)).toBe(text);
    expect(/[\n\r\u0000-\u001f]/.test(literal)).toBe(false);
    // What leaves in UTF-8 must be a whole string: lone surrogates stay escaped.
    expect(Buffer.from(literal).toString()).toBe(literal);
  }
  expect([-Infinity, -0.25, 0, -0, Number.NaN].map(jsonLogprob)).toEqual(['-9999', '-0.25', '0', '0', '-9999']);
  expect(jsonBytes(Uint8Array.from([1, 200]))).toBe('[1,200]');
});

test('a stream is flushed once a tick, and one that throws does not keep the others', () => {
  const deferred: (() => void)[] = [];
  const flusher = new Flusher({ defer: (callback: () => void) => void deferred.push(callback) } as never);
  const log: string[] = [];
  const stream = (name: string, broken = false): Flushable => ({
    dirty: false,
    flush: () => {
      if (broken) throw new Error(name);
      log.push(name);
      // More tokens while flushing belong to the next tick.
      if (name === 'c' && log.length < 5) flusher.mark(c);
    },
    failed: (error) => void log.push(`failed ${(error as Error).message}`),
  });
  const a = stream('a');
  const b = stream('b', true);
  const c = stream('c');
  for (const one of [a, b, a, c, a]) flusher.mark(one);
  expect(deferred.length).toBe(1);
  deferred.shift()!();
  expect(log).toEqual(['a', 'failed b', 'c']);
  expect(deferred.length).toBe(1);
  deferred.shift()!();
  expect(log).toEqual(['a', 'failed b', 'c', 'c']);
});

test('a storm of requests and leaving clients leaves nothing behind', async () => {
  const seed = Date.now() & 0xffffff;
  const random = seeded(seed);
  const model = new FakeModel('demo', (run) => {
    const fate = random.below(6);
    let left = 1 + random.below(20);
    const step = (): void => {
      if (run.ended) return;
      if (fate === 0 && left < 5) return run.end({ type: 'failed', error: { code: 'SERVING_WORKER_LOST', message: 'lost', retryable: true } });
      for (let choice = 0; choice < run.request.choices; choice++) run.send('né', left === 1 ? FinishCode.Length : FinishCode.None, choice);
      if (--left === 0) run.finish();
      else setImmediate(step);
    };
    if (fate === 1) step();
    else setImmediate(step);
  });
  await serving([model], {}, async ({ url, context, frontend }) => {
    const port = Number(new URL(url).port);
    let whole = 0;
    const one = async (): Promise<void> => {
      const client = await RawHttpClient.open(port);
      for (let k = 1 + random.below(4); k > 0; k--) {
        const stream = random.below(2) === 0;
        const body = { model: 'demo', messages: [{ role: 'user', content: 'x' }], stream, n: 1 + random.below(3), ...(random.below(3) === 0 ? { stop: 'én' } : {}) };
        client.request('POST', '/v1/chat/completions', JSON.stringify(body), { 'content-type': 'application/json', 'x-request-id': `id-${random.below(20)}` });
        if (random.below(4) === 0) {
          if (random.below(2) === 0) await new Promise(setImmediate);
          break;
        }
        const answer = await client.answer();
        if (answer.status === 200 && stream && !answer.body.includes('"error"')) {
          readChatStream(answer.body.toString());
          whole++;
        }
      }
      client.destroy();
    };
    for (let round = 0; round < 10; round++) await Promise.all(Array.from({ length: 40 }, one));
    await eventually(() => context.metrics.values.get('armature_frontend_requests_in_flight') === 0, `no request in flight (seed ${seed})`);
    expect(whole, `seed ${seed}`).toBeGreaterThan(50);
    for (const run of model.runs) expect(run.ended || run.cancels > 0, `seed ${seed}`).toBe(true);
    expect(context.metrics.values.get('armature_frontend_disconnects_total')).toBeGreaterThan(0);
    expect(context.log.lines.filter((line) => line.level === 'error')).toEqual([]);
    await frontend.drain(1000);
  });
});
