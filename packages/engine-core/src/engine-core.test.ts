import type { EngineSink } from '@armature/contracts';
import { describe, expect, it } from 'vitest';
import { BLOCK_SIZE, Bench, EOS, plainRequest } from './scripted-runner.test.support.ts';

describe('passes', () => {
  it('one token budget: running sequences first, then waiting ones, prompts in chunks', async () => {
    const bench = await Bench.started({ maxBatchedTokens: 10 });
    bench.ask(1, 14, { maxTokens: 3 });
    bench.ask(2, 5, { maxTokens: 2 });
    bench.ask(3, 9);
    await bench.run();
    expect(bench.log).toEqual(['1:10@0', '1:4@10 2:5@0 3:1@0', '1:1@14 2:1@5 3:8@1', '1:1@15']);
    expect(bench.runner.passes[1].map(({ samples }) => samples)).toEqual([true, true, false]);
  });

  it('requests of one tick share a pass; no more sequences than allowed', async () => {
    const bench = await Bench.started({ maxSequences: 2 });
    for (const who of [1, 2, 3]) bench.ask(who, 4, { maxTokens: who === 1 ? 1 : 2 });
    await bench.run();
    expect(bench.log).toEqual(['1:4@0 2:4@0', '2:1@4 3:4@0', '3:1@4']);
  });

  it('higher priority is admitted first, then order of arrival', async () => {
    const bench = await Bench.started({ maxSequences: 1 });
    bench.ask(1, 4);
    bench.ask(2, 4);
    bench.ask(3, 4, { priority: 5 });
    bench.ask(4, 4, { priority: 5 });
    await bench.run();
    expect(bench.log).toEqual(['3:4@0', '4:4@0', '1:4@0', '2:4@0']);
  });

  it('a full hit computes the last block again, because one token must be sampled from', async () => {
    const bench = await Bench.started();
    bench.ask(1, 8);
    await bench.run();
    const again = bench.ask(1, 8);
    await bench.run();
    const longer = bench.ask(1, 9);
    await bench.run();
    expect(bench.log).toEqual(['1:8@0', '1:4@4', '1:1@8']);
    expect(again.end).toMatchObject({ usage: { cachedTokens: 4 } });
    expect(longer.end).toMatchObject({ usage: { cachedTokens: 8 } });
  });

  it('one sink call per pass, with all choices; one prefill for all of them', async () => {
    const bench = await Bench.started();
    const told = bench.ask(1, 10, { choices: 3, maxTokens: 3 });
    await bench.run();
    expect(bench.log).toEqual(['1:10@0', '1:1@10 1:2@8 1:2@8', '1:1@11 1:1@10 1:1@10', '1:1@11 1:1@11']);
    expect(told.calls).toEqual(['tokens', 'tokens', 'tokens', 'tokens', 'finished']);
    const [lead, second, third] = bench.runner.passes[1];
    expect([second.blocks.slice(0, 2), third.blocks.slice(0, 2)]).toEqual([lead.blocks.slice(0, 2), lead.blocks.slice(0, 2)]);
    expect(new Set([lead.blocks[2], second.blocks[2], third.blocks[2]]).size).toBe(3); // the partial block is each one's own
    expect(bench.engine.load().usedBlocks).toBe(0);
  });

  it('the choices of a request wait in its place, not behind those that came later', async () => {
    const bench = await Bench.started({ maxSequences: 2 });
    bench.ask(1, 6, { choices: 2, maxTokens: 2 });
    bench.ask(2, 6);
    bench.ask(3, 6);
    await bench.run();
    expect(bench.log).toEqual(['1:6@0 2:6@0', '1:1@6 1:2@4', '1:1@6 3:6@0']);
  });

  it('equal prompts computed at the same time share their blocks afterwards', async () => {
    const bench = await Bench.started({ maxBatchedTokens: 32 });
    bench.ask(1, 12, { maxTokens: 2 });
    bench.ask(1, 12, { maxTokens: 2 });
    await bench.run();
    const [first, second] = bench.runner.passes[0];
    expect(new Set([...first.blocks, ...second.blocks]).size).toBe(6);
    const [one, other] = bench.runner.passes[1];
    expect(other.blocks.slice(0, 3)).toEqual(one.blocks.slice(0, 3));
    expect(bench.events.filter(({ type }) => type === 'stored')).toHaveLength(1);
  });
});

describe('preemption', () => {
  it('takes the newest, admits nobody in that pass, and computes it again later with its output', async () => {
    const bench = await Bench.started({ totalBlocks: 6 });
    const told = [1, 2].map((who) => bench.ask(who, 7, { maxTokens: 8 }));
    await bench.run(0);
    bench.ask(3, 3);
    await bench.run();
    // 2 blocks each at first; request 3 takes one more; then 1 needs its third and fourth block.
    expect(bench.engine.load().preemptions).toBeGreaterThan(0);
    const lengths = bench.runner.passes.map((rows) => rows.map(({ who }) => who).join(''));
    const preempted = lengths.findIndex((rows, i) => i > 0 && !rows.includes('2') && lengths[i - 1].includes('2'));
    expect(preempted).toBeGreaterThan(0);
    const back = bench.runner.passes.slice(preempted).flat().find(({ who }) => who === 2)!;
    expect(back.tokens).toBeGreaterThan(1);
    for (const { tokens, end } of told) {
      expect(tokens[0]).toEqual([50, 51, 52, 53, 54, 55, 56, 57]);
      expect(end).toMatchObject({ type: 'finished', usage: { cachedTokens: 0, outputTokens: 8 } });
    }
    expect(bench.engine.load()).toMatchObject({ usedBlocks: 0, running: 0, waiting: 0 });
  });

  it('admits nobody in the pass of a preemption, though there is room', async () => {
    const bench = await Bench.started({ totalBlocks: 4 });
    bench.ask(1, 7, { maxTokens: 4 });
    bench.ask(2, 7, { maxTokens: 4 });
    await bench.run(0.5);
    bench.ask(3, 3, { priority: 1 });
    await bench.run();
    expect(bench.log.slice(0, 4)).toEqual(['1:7@0 2:7@0', '1:1@7 2:1@7', '1:1@8', '1:1@9 3:3@0']);
    expect(bench.engine.load().preemptions).toBe(1);
  });

  it('spares the higher priority', async () => {
    const bench = await Bench.started({ totalBlocks: 5 });
    bench.ask(1, 7, { maxTokens: 6 });
    await bench.run(1.5);
    bench.ask(2, 7, { maxTokens: 6, priority: 1 });
    await bench.run();
    const without = (who: number): boolean => bench.runner.passes.slice(2, -3).some((rows) => rows.length === 1 && rows[0].who !== who);
    expect(bench.engine.load().preemptions).toBe(1);
    expect([without(1), without(2)]).toEqual([true, false]);
  });

  it('a sequence that fits alone always ends: it can be its own victim, and waiting ones give back what they adopted', async () => {
    const bench = await Bench.started({ totalBlocks: 6 });
    const legs = [1, 2, 3].map((who) => {
      const { id } = bench.engine.kv.reserve(new Int32Array(0), 2, 1e6)!;
      return bench.ask(who, 8, { leg: 'decode', firstTokens: Int32Array.of(40), maxTokens: 3, kvSource: { type: 'reservation', reservation: id, readyTokens: 8 } });
    });
    expect(bench.engine.load().freeBlocks).toBe(0);
    await bench.run();
    for (const { tokens, end } of legs) {
      expect(end?.type).toBe('finished');
      expect(tokens[0]).toEqual([51, 52]);
    }
    expect(bench.engine.load().usedBlocks).toBe(0);
  });
});

describe('ends', () => {
  it('end of sequence, stop tokens, minTokens, ignoreEos, context length', async () => {
    const bench = await Bench.started();
    bench.runner.next = (_row, index) => (index === 2 ? EOS : index === 4 ? 44 : index);
    const ask = (stop: object, length = 3): Promise<number[]> => {
      const told = bench.ask(7, length, { maxTokens: 8, stop });
      return bench.run().then(() => told.tokens[0]);
    };
    expect(await ask({})).toEqual([0, 1, EOS]);
    expect(await ask({ ignoreEos: true })).toHaveLength(8);
    expect(await ask({ ignoreEos: true, stopTokenIds: Int32Array.of(44) })).toEqual([0, 1, EOS, 3, 44]);
    expect(await ask({ minTokens: 4, stopTokenIds: Int32Array.of(44) })).toEqual([0, 1, EOS, 3, 44]);
    expect(await ask({ ignoreEos: true }, 61)).toHaveLength(3);
  });

  it('a cancelled request keeps its blocks until the pass that uses them has ended', async () => {
    const bench = await Bench.started();
    bench.runner.isHeld = true;
    const told = bench.ask(1, 9, { maxTokens: 5 });
    await bench.run(0);
    bench.engine.cancel(told.handle);
    expect([told.calls, bench.engine.load().usedBlocks, bench.engine.load().running]).toEqual([['cancelled'], 3, 0]);
    expect(bench.runner.open.size).toBe(1);
    bench.runner.finish?.();
    expect([bench.engine.load().usedBlocks, bench.runner.open.size]).toEqual([0, 0]);
    expect(told.calls).toEqual(['cancelled']);
  });

  it('a sink may cancel itself and others, and submit, from inside a call', async () => {
    const bench = await Bench.started();
    const other = bench.ask(2, 5, { maxTokens: 9 });
    let late: ReturnType<Bench['ask']> | undefined;
    const told = bench.ask(1, 6, { maxTokens: 9, choices: 2 }, {
      tokens: () => {
        bench.engine.cancel(told.handle);
        bench.engine.cancel(other.handle);
        late ??= bench.ask(3, 3);
      },
    });
    await bench.run();
    expect([told.calls, other.calls.at(-1), late?.calls]).toEqual([['tokens', 'cancelled'], 'cancelled', ['tokens', 'finished']]);
    expect(bench.engine.load().usedBlocks).toBe(0);
    expect(bench.runner.open.size).toBe(0);
  });

  it('a waiting queue is bounded', async () => {
    const bench = await Bench.started({ maxWaiting: 2 });
    const told = [1, 2, 3].map((who) => bench.ask(who, 3));
    expect(told.map(({ calls }) => calls)).toEqual([[], [], ['ENGINE_OVERLOADED']]);
    expect(told[2].end).toMatchObject({ error: { retryable: true } });
  });

  it('refuses what it cannot be or does not understand', async () => {
    const bench = await Bench.started({ roles: ['prefill'] });
    expect(bench.ask(1, 3, { leg: 'decode' }).calls).toEqual(['ENGINE_LEG_UNSUPPORTED']);
    expect(bench.ask(1, 3, { kvSource: { type: 'opaque', params: {} } }).calls).toEqual(['ENGINE_KV_SOURCE_UNSUPPORTED']);
    expect(bench.ask(1, 3, { choices: 2, firstTokens: Int32Array.of(1) }).calls).toEqual(['ENGINE_CHOICES_INVALID']);
    expect(bench.ask(1, 3, { stop: { maxTokens: 0 } }).calls).toEqual(['ENGINE_MAX_TOKENS_INVALID']);
    expect(new Bench().ask(1, 3).calls).toEqual(['ENGINE_CLOSED']);
    expect(() => new Bench().engine.info).toThrow('not been started');
  });

  it('a request with nothing left to do ends at once', async () => {
    const bench = await Bench.started();
    const { id } = bench.engine.kv.reserve(new Int32Array(0), 1, 1000)!;
    const ended = bench.ask(1, 4, { leg: 'decode', choices: 2, firstTokens: Int32Array.of(-1, -1), kvSource: { type: 'reservation', reservation: id, readyTokens: 4 } });
    const full = bench.ask(1, 6, { promptTokens: 4, maxTokens: 2 });
    expect([ended.end, full.end]).toMatchObject([{ usage: { outputTokens: 2 } }, { usage: { outputTokens: 0 } }]);
    expect(bench.engine.load()).toMatchObject({ usedBlocks: 0, waiting: 0 });
  });
});

describe('prefill leg', () => {
  it('the borrower hears of it when the first pass begins, then per chunk, then the token', async () => {
    const bench = await Bench.started({ maxBatchedTokens: 8 });
    bench.ask(1, 8);
    await bench.run();
    const told = bench.ask(1, 18, { leg: 'prefill', maxTokens: 5 });
    await bench.run(0);
    expect(told.calls).toEqual(['prefilled 8']); // what the cache holds can be read already
    await bench.run();
    expect(told.calls).toEqual(['prefilled 8', 'prefilled 16', 'prefilled 18', 'tokens', 'finished']);
    expect(told.handovers.map(({ blocks, cachedTokens }) => [blocks.length, cachedTokens])).toEqual([[5, 8], [5, 8], [5, 8]]);
  });

  it('time of a lease runs from the end of the leg; drain waits for it', async () => {
    const bench = await Bench.started();
    bench.ask(1, 8, { leg: 'prefill', leaseTtlMs: 100 });
    await bench.run(50);
    let isDrained = false;
    void bench.engine.drain(1e6).then(() => (isDrained = true));
    await bench.run(40);
    expect([isDrained, bench.engine.kv.counts().leases]).toEqual([false, 1]);
    await bench.run(20);
    expect([isDrained, bench.engine.kv.counts().leases, bench.engine.load().usedBlocks]).toEqual([true, 0, 0]);
  });

  it('without first token: no draw, no token', async () => {
    const bench = await Bench.started({ firstToken: 'decode' });
    const told = bench.ask(1, 8, { leg: 'prefill' });
    await bench.run(50);
    expect(told.calls).toEqual(['prefilled 0', 'prefilled 8', 'finished']);
    expect(bench.runner.passes[0][0].samples).toBe(false);
  });
});

describe('decode leg', () => {
  it('writes into no block that others may match', async () => {
    const bench = await Bench.started();
    bench.ask(1, 8);
    await bench.run();
    const hashes = bench.events.flatMap((event) => (event.type === 'stored' ? [...event.sequenceHashes] : []));
    const { id, blocks, matchedBlocks } = bench.engine.kv.reserve(Int32Array.from(hashes), 2, 1000)!;
    expect(matchedBlocks).toBe(2);
    const told = bench.ask(1, 8, { leg: 'decode', kvSource: { type: 'reservation', reservation: id, readyTokens: 8 } });
    await bench.run();
    const row = bench.runner.passes.at(-1)![0];
    expect([row.context, row.tokens, row.blocks[0] === blocks[0], row.blocks[1] === blocks[1]]).toEqual([4, 4, true, false]);
    expect(told.end).toMatchObject({ usage: { cachedTokens: 4 } });
    expect(bench.engine.load().usedBlocks).toBe(0);
  });

  it('a reservation that outlived its time is reported, and still adopted', async () => {
    const bench = await Bench.started();
    const { id } = bench.engine.kv.reserve(new Int32Array(0), 2, 10)!;
    await bench.run(20);
    expect([bench.warnings, bench.engine.kv.counts()]).toEqual([['ENGINE_RESERVATION_EXPIRED'], { leases: 0, reservations: 1, quarantined: 1 }]);
    const told = bench.ask(1, 6, { leg: 'decode', firstTokens: Int32Array.of(9), maxTokens: 2, kvSource: { type: 'reservation', reservation: id, readyTokens: 6 } });
    await bench.run();
    expect([told.tokens[0], bench.log, bench.engine.load().usedBlocks]).toEqual([[51], ['1:1@6'], 0]);
  });
});

describe('failure', () => {
  it('of a pass: every request fails with a retryable code, and the engine stays failed', async () => {
    const bench = await Bench.started({ maxSequences: 1 });
    const told = [bench.ask(1, 5), bench.ask(2, 5)];
    bench.runner.error = { code: 'ENGINE_THREAD_DIED', message: 'gone' };
    await bench.run();
    for (const { end } of told) expect(end).toMatchObject({ type: 'failed', error: { code: 'ENGINE_THREAD_DIED', retryable: true } });
    expect(bench.engine.failure()?.code).toBe('ENGINE_THREAD_DIED');
    expect(bench.ask(3, 5).calls).toEqual(['ENGINE_THREAD_DIED']);
    expect([bench.engine.load().usedBlocks, bench.runner.open.size, bench.engine.kv.reserve(new Int32Array(0), 1, 1)]).toEqual([0, 0, undefined]);
  });

  it('a runner that throws counts as failed', async () => {
    const bench = await Bench.started();
    bench.runner.throws = true;
    const told = bench.ask(1, 5);
    await bench.run();
    expect(told.calls).toEqual(['ENGINE_STEP_FAILED']);
  });

  it('a pass that does not end is reported; its blocks stay out of use, its late end is ignored', async () => {
    const bench = await Bench.started({ stepTimeoutMs: 30 });
    bench.runner.isHeld = true;
    const told = bench.ask(1, 5, { maxTokens: 3 });
    await bench.run(29);
    expect(told.calls).toEqual([]);
    await bench.run(1);
    expect([told.calls, bench.engine.failure()?.code, bench.engine.load().usedBlocks]).toEqual([['ENGINE_STEP_STUCK'], 'ENGINE_STEP_STUCK', 2]);
    bench.runner.finish?.();
    expect(told.calls).toEqual(['ENGINE_STEP_STUCK']);
    await bench.engine.close();
    expect([bench.clock.pendingTimers, bench.engine.load().usedBlocks]).toEqual([0, 0]);
  });

  it('of one row: its request fails alone, its blocks leave the prefix cache', async () => {
    const bench = await Bench.started({ maxBatchedTokens: 32 });
    const told = [bench.ask(1, 8, { maxTokens: 4 }), bench.ask(2, 8, { maxTokens: 4 })];
    await bench.run(1.5);
    expect(bench.engine.snapshot()).toHaveLength(2);
    bench.runner.rowErrors = new Map([[0, { code: 'ENGINE_KV_CORRUPT', message: '' }]]);
    await bench.run();
    expect(told.map(({ calls }) => calls.at(-1))).toEqual(['ENGINE_KV_CORRUPT', 'finished']);
    const removed = bench.events.flatMap((event) => (event.type === 'removed' ? [...event.sequenceHashes] : []));
    expect(removed).toHaveLength(2 * (8 / BLOCK_SIZE));
    expect(bench.engine.failure()).toBeUndefined();
    expect(bench.engine.load().usedBlocks).toBe(0);
  });
});

it('close leaves no timer', async () => {
  const bench = await Bench.started();
  bench.ask(1, 8, { leg: 'prefill', leaseTtlMs: 1e6 });
  await bench.run(10);
  bench.engine.kv.reserve(new Int32Array(0), 1, 1e6);
  bench.ask(2, 8);
  await bench.run(0);
  await bench.engine.close();
  await bench.engine.close();
  await bench.run(5);
  expect(bench.clock.pendingTimers).toBe(0);
});

describe('hostile input', () => {
  it('sizes out of range are refused before anything is allocated for them', async () => {
    const bench = await Bench.started();
    const codes: (string | undefined)[] = [];
    const sink: EngineSink = { tokens: () => undefined, end: (end) => void codes.push(end.type === 'failed' ? end.error.code : end.type) };
    for (const choices of [2 ** 33, Number.NaN, 0.5, -1]) bench.engine.submit({ ...plainRequest, choices }, sink);
    for (const topLogprobs of [2 ** 40, Number.NaN]) bench.engine.submit({ ...plainRequest, sampling: { ...plainRequest.sampling, topLogprobs } }, sink);
    bench.engine.submit({ ...plainRequest, stop: { ...plainRequest.stop, maxTokens: Number.NaN } }, sink);
    expect(codes).toEqual([...Array.from({ length: 4 }, () => 'ENGINE_CHOICES_INVALID'), 'ENGINE_LOGPROBS_INVALID', 'ENGINE_LOGPROBS_INVALID', 'ENGINE_MAX_TOKENS_INVALID']);
  });

  it('first tokens are tokens, or -1', async () => {
    const bench = await Bench.started();
    for (const token of [100, -2, 2 ** 30]) expect(bench.ask(1, 3, { leg: 'decode', firstTokens: Int32Array.of(token) }).calls).toEqual(['ENGINE_TOKEN_OUT_OF_RANGE']);
  });

  it('a decode leg at the context length has nothing left to do', async () => {
    const bench = await Bench.started();
    const told = bench.ask(1, 63, { leg: 'decode', firstTokens: Int32Array.of(5), maxTokens: 9 });
    await bench.run();
    expect([told.calls, bench.log]).toEqual([['finished'], []]);
  });

  it('a reservation made for other tokens is not read', async () => {
    const bench = await Bench.started();
    const { id } = bench.engine.kv.reserve(Int32Array.of(1, 2, 3, 4), 2, 1000)!;
    const told = bench.ask(1, 8, { leg: 'decode', maxTokens: 2, kvSource: { type: 'reservation', reservation: id, readyTokens: 8 } });
    await bench.run();
    expect([bench.warnings, bench.log, told.end]).toMatchObject([['ENGINE_RESERVATION_MISMATCH'], ['1:8@0', '1:1@8'], { usage: { cachedTokens: 0 } }]);
    expect(bench.engine.load().usedBlocks).toBe(0);
  });

  it('a listener of KV events may cancel what is being registered, and may throw', async () => {
    const bench = await Bench.started();
    const told = bench.ask(1, 14, { maxTokens: 5 });
    const other = bench.ask(2, 2, { maxTokens: 3 });
    bench.onEvent = () => {
      bench.engine.cancel(told.handle);
      throw new Error('listener');
    };
    await bench.run();
    expect([told.calls, other.calls.at(-1), bench.warnings[0]]).toEqual([['cancelled'], 'finished', 'ENGINE_LISTENER_FAILED']);
    expect([bench.engine.load().usedBlocks, bench.runner.open.size]).toEqual([0, 0]);
  });

  it('a listener of evictions may cancel what is about to run', async () => {
    const bench = await Bench.started({ totalBlocks: 4 });
    bench.ask(1, 15);
    await bench.run();
    const told = bench.ask(2, 15, { maxTokens: 1 });
    bench.onEvent = (event) => void (event.type === 'removed' && bench.engine.cancel(told.handle));
    await bench.run();
    expect([told.calls, bench.engine.load().usedBlocks, bench.runner.open.size]).toEqual([['cancelled'], 0, 0]);
  });
});

describe('drain and close', () => {
  it('several may wait for rest', async () => {
    const bench = await Bench.started();
    bench.ask(1, 3, { maxTokens: 5 });
    const done: string[] = [];
    for (const name of ['a', 'b']) void bench.engine.drain(1e6).then(() => done.push(name));
    await bench.run(100);
    expect(done).toEqual(['a', 'b']);
    expect(bench.clock.pendingTimers).toBe(0);
  });

  it('a failed engine rests', async () => {
    const bench = await Bench.started({ stepTimeoutMs: 30 });
    bench.runner.isHeld = true;
    bench.ask(1, 3);
    await bench.run(40);
    let isDrained = false;
    void bench.engine.drain(1e6).then(() => (isDrained = true));
    await bench.run(0);
    expect(isDrained).toBe(true);
  });

  it('every close waits for the runner', async () => {
    const bench = await Bench.started();
    let finish = (): void => undefined;
    bench.runner.closing = new Promise((resolve) => (finish = resolve));
    const done: string[] = [];
    for (const name of ['a', 'b']) void bench.engine.close().then(() => done.push(name));
    await bench.run(10);
    expect(done).toEqual([]);
    finish();
    await bench.run(10);
    expect(done).toEqual(['a', 'b']);
  });

  it('a runner that cannot open a sequence has failed', async () => {
    const bench = await Bench.started();
    bench.runner.opensThrow = true;
    const told = bench.ask(1, 3);
    await bench.run();
    expect([told.calls, bench.engine.failure()?.code, bench.engine.load().usedBlocks]).toEqual([['ENGINE_STEP_FAILED'], 'ENGINE_STEP_FAILED', 0]);
  });
});

it('a prefill leg that draws nothing computes its prompt once, whatever the choices', async () => {
  const bench = await Bench.started({ firstToken: 'decode' });
  const told = bench.ask(1, 6, { leg: 'prefill', choices: 3 });
  await bench.run(20);
  expect([bench.log, told.end]).toMatchObject([['1:6@0'], { usage: { outputTokens: 0 } }]);
});
