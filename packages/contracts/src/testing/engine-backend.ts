import assert from 'node:assert/strict';
import type { EngineBackend } from '../engine-backend.ts';
import { FinishCode } from '../inference.ts';
import { EngineSession, seeded } from './engine-session.ts';
import type { EngineSurroundings, Recording } from './engine-session.ts';
import { disaggregationRules, kvEventRules, leaseRules, reservationRules } from './engine-kv-rules.ts';
import { adoptedPrefillRules, adoptionRules, tierRules } from './engine-tier-rules.ts';
import { registerRules } from './runner.ts';
import type { ContractRule, SkippedRule, SuiteRunner } from './runner.ts';

export interface EngineBackendContractOptions extends EngineSurroundings {
  readonly runner: SuiteRunner;
  /** What the engine says it can do: rules of other abilities are left out, and the claim is checked. */
  readonly abilities: EngineBackend['abilities'];
  /** Whether the engine has a kv face; default true. */
  readonly hasKv?: boolean;
  /** First seed of the random rules; failures print theirs. */
  readonly seed?: number;
  /** Engines created and closed by the growth rule; default 100. */
  readonly rounds?: number;
  readonly skip?: readonly SkippedRule[];
}

/** Runs the rules of `engine-backend` v1. */
export function engineBackendContract(options: EngineBackendContractOptions): void {
  registerRules(options.runner, 'engine-backend contract', engineBackendRules(options), options.skip);
}

/** The rules that apply to an engine with these abilities. */
export function engineBackendRules(options: Omit<EngineBackendContractOptions, 'runner' | 'skip'>): ContractRule[] {
  const { abilities, hasKv = true, seed = 1 } = options;
  const can = (role: 'prefill' | 'decode'): boolean => hasKv && (abilities.roles.includes(role) || abilities.roles.includes('both'));
  return [
    ...outputRules(options),
    ...endRules(options),
    ...lifecycleRules(options),
    ...(abilities.kvEvents && hasKv ? [...kvEventRules(options, seed), ...tierRules(options), ...adoptionRules(options)] : []),
    ...(can('prefill') ? leaseRules(options) : []),
    ...(can('prefill') && abilities.kvEvents ? adoptedPrefillRules(options) : []),
    ...(can('decode') ? reservationRules(options) : []),
    ...(can('prefill') && can('decode') ? disaggregationRules(options) : []),
  ];
}

type RuleOptions = Omit<EngineBackendContractOptions, 'runner' | 'skip'>;
type Check = (session: EngineSession) => Promise<void>;

function rule(options: RuleOptions, name: string, check: Check): ContractRule {
  return {
    name,
    run: async () => {
      const session = await EngineSession.open(options);
      try {
        await check(session);
      } finally {
        await session.close();
      }
    },
  };
}

const warm = { temperature: 1 } as const;

/** The request's sampling parameters with some changed. */
function sampling(session: EngineSession, changes: Partial<Recording['request']['sampling']>): Partial<Recording['request']> {
  return { sampling: { ...session.request(session.prompt(1, 1)).sampling, ...changes } };
}

function stop(changes: Partial<Recording['request']['stop']>): Pick<Recording['request'], 'stop'> {
  return { stop: { maxTokens: 8, minTokens: 0, stopTokenIds: new Int32Array(0), ignoreEos: true, ...changes } };
}

function outputRules(options: RuleOptions): ContractRule[] {
  return [
    rule(options, 'shape: info, abilities and load agree with themselves', async ({ engine }) => {
      const { info, abilities } = engine;
      assert.deepEqual(abilities, options.abilities, 'abilities as claimed');
      assert.equal(engine.kv !== undefined, options.hasKv ?? true, 'kv face as claimed');
      for (const [name, value] of Object.entries(info)) if (name !== 'modelFingerprint') assert.ok(Number.isInteger(value) && value > 0, `info.${name} is ${value}`);
      assert.ok(info.modelFingerprint.length > 0, 'a model fingerprint');
      const load = engine.load();
      assert.deepEqual({ ...load }, { running: 0, waiting: 0, prefillTokens: 0, usedBlocks: 0, freeBlocks: info.totalBlocks, totalBlocks: info.totalBlocks, preemptions: 0 });
      assert.equal(engine.failure(), undefined);
    }),
    rule(options, 'choices: each gets its tokens in order and one finish code, with its last token', async (session) => {
      for (const choices of [1, 3]) {
        const recording = await session.run(session.prompt(2, 20), { choices, ...stop({ maxTokens: 5 }), ...sampling(session, warm) });
        assert.equal(recording.outcome, 'finished');
        for (let choice = 0; choice < choices; choice++) {
          assert.equal(recording.tokens[choice]?.length, 5, `tokens of choice ${choice} of ${choices}`);
          assert.deepEqual(recording.finishes[choice], [FinishCode.None, FinishCode.None, FinishCode.None, FinishCode.None, FinishCode.Length], `finish codes of choice ${choice}`);
          assert.ok(recording.tokens[choice]?.every((token) => token >= 0 && token < session.engine.info.vocabSize), 'tokens are in the vocabulary');
        }
        assert.ok(recording.hadChoices.every((had) => had === choices > 1), 'the choices column is there when there are several');
      }
    }),
    rule(options, 'usage: prompt, cached whole blocks, output of all choices', async (session) => {
      const prompt = session.prompt(3, session.blockSize * 3);
      const first = await session.run(prompt, { choices: 2 });
      assert.deepEqual(first.end, { type: 'finished', usage: { promptTokens: prompt.length, cachedTokens: 0, outputTokens: 16 } });
      const second = await session.run(prompt);
      // All of it is in the cache, but one token must be computed to sample from.
      assert.deepEqual(second.end, { type: 'finished', usage: { promptTokens: prompt.length, cachedTokens: session.blockSize * 2, outputTokens: 8 } });
      const other = await session.run(prompt, { cacheSalt: 'another tenant' });
      assert.deepEqual(other.end, { type: 'finished', usage: { promptTokens: prompt.length, cachedTokens: 0, outputTokens: 8 } }, 'a cache salt separates tenants');
    }),
    rule(options, 'the same request draws the same tokens: alone, in company, from the cache', async (session) => {
      const prompt = session.prompt(4, 30);
      const overrides = { ...sampling(session, warm), ...stop({ maxTokens: 12 }) };
      const alone = await session.run(prompt, overrides);
      const company = [5, 6, 7, 8].map((seed) => session.submit(session.request(session.prompt(seed, 10 * seed), overrides)));
      const again = await session.run(prompt, overrides);
      const other = await session.run(prompt, { ...overrides, ...sampling(session, { ...warm, seedLo: 77 }) });
      await session.ended(...company);
      assert.deepEqual(again.tokens, alone.tokens);
      assert.notDeepEqual(other.tokens, alone.tokens, 'another seed draws other tokens');
    }),
    rule(options, 'output made elsewhere is continued as if it had been made here', async (session) => {
      const prompt = session.prompt(9, 21);
      const overrides = { ...sampling(session, warm), ...stop({ maxTokens: 10 }) };
      const whole = (await session.run(prompt, overrides)).tokens[0] ?? [];
      const rest = await session.run(Int32Array.of(...prompt, ...whole.slice(0, 4)), { ...overrides, promptTokens: prompt.length });
      assert.deepEqual(rest.tokens[0], whole.slice(4));
      assert.equal(rest.finishes[0]?.at(-1), FinishCode.Length, 'maxTokens counts the output made elsewhere');
    }),
    rule(options, 'a stop token ends the choice and is delivered, but not before minTokens', async (session) => {
      const prompt = session.prompt(10, 18);
      const free = (await session.run(prompt, { ...sampling(session, warm), ...stop({ maxTokens: 10 }) })).tokens[0] ?? [];
      const token = free[4]!;
      const at = free.indexOf(token);
      const stopTokenIds = Int32Array.of(token);
      const stopped = await session.run(prompt, { ...sampling(session, warm), ...stop({ maxTokens: 10, stopTokenIds }) });
      assert.deepEqual(stopped.tokens[0], free.slice(0, at + 1));
      assert.equal(stopped.finishes[0]?.at(-1), FinishCode.Stop);
      const held = await session.run(prompt, { ...sampling(session, warm), ...stop({ maxTokens: 10, minTokens: 9, stopTokenIds }) });
      assert.ok(held.rows >= 9, `${held.rows} tokens with minTokens 9`);
    }),
    rule(options, 'logprobs: as asked for, best first, the chosen token among them when greedy', async (session) => {
      const without = await session.run(session.prompt(11, 10));
      assert.ok(without.hadLogprobs.every((had) => !had) && without.topTokenIds.length === 0, 'none when not asked for');
      const chosen = await session.run(session.prompt(11, 10), sampling(session, { topLogprobs: 0 }));
      assert.deepEqual([chosen.logprobs.length, chosen.topTokenIds.length], [8, 0]);
      if (options.abilities.maxTopLogprobs < 1) return;
      const top = Math.min(3, options.abilities.maxTopLogprobs);
      const several = await session.run(session.prompt(11, 10), sampling(session, { topLogprobs: top }));
      assert.deepEqual([several.logprobs.length, several.topTokenIds.length, several.topLogprobs.length], [8, 8, 8]);
      several.topLogprobs.forEach((row, i) => {
        assert.equal(row.length, top);
        assert.ok(row.every((value, k) => value <= 0 && (k === 0 || value <= row[k - 1]!)), `row ${i}: ${row.join(', ')}`);
        assert.equal(several.topTokenIds[i]?.[0], several.tokens[0]?.[i], 'greedy takes the best');
        assert.ok(Math.abs(row[0]! - several.logprobs[i]!) < 1e-4, 'one number for one token');
      });
    }),
  ];
}

function endRules(options: RuleOptions): ContractRule[] {
  return [
    rule(options, 'exactly one terminal item, after everything else', async (session) => {
      const finished = session.submit(session.request(session.prompt(12, 20)));
      const refused = session.submit(session.request(Int32Array.of(-1)));
      await session.settled(finished, refused);
      await session.elapse(50);
      for (const recording of [finished, refused]) {
        assert.equal(recording.ends.length, 1, `terminal items of a request that ${recording.outcome}`);
        assert.equal(recording.calls.at(-1), 'end', 'the last call');
      }
    }),
    rule(options, 'refusals come as failures with a code, never thrown', async (session) => {
      const { info } = session.engine;
      const cases: [string, Recording][] = [
        ['no tokens', session.submit(session.request(new Int32Array(0)))],
        ['a token above the vocabulary', session.submit(session.request(Int32Array.of(1, info.vocabSize)))],
        ['a negative token', session.submit(session.request(Int32Array.of(1, -1)))],
        ['a prompt that leaves no room', session.submit(session.request(new Int32Array(info.maxModelTokens).fill(1)))],
        ['no choices', session.submit(session.request(Int32Array.of(1), { choices: 0 }))],
      ];
      await session.settled(...cases.map(([, recording]) => recording));
      for (const [name, { outcome }] of cases) assert.match(outcome, /^failed ENGINE_[A-Z_]+$/, name);
      assert.equal((await session.run(session.prompt(13, 9))).outcome, 'finished', 'the engine still serves');
    }),
    rule(options, 'the context length ends a choice', async (session) => {
      const { maxModelTokens } = session.engine.info;
      if (maxModelTokens > 4096) return; // too long to fill here
      const recording = await session.run(session.prompt(14, maxModelTokens - 3), stop({ maxTokens: 100 }));
      assert.deepEqual(recording.finishes[0], [FinishCode.None, FinishCode.None, FinishCode.Length]);
    }),
    rule(options, 'cancel ends a request at any time and frees its blocks', async (session) => {
      const recordings: Recording[] = [];
      for (let i = 0; i < 12; i++) {
        const recording = session.submit(session.request(session.prompt(200 + i, 5 + 9 * i), { choices: 1 + (i % 2), ...stop({ maxTokens: 60 }) }));
        recordings.push(recording);
        if (i % 4 === 0) session.engine.cancel(recording.handle!);
        if (i % 4 === 1) recording.onBatch = () => session.engine.cancel(recording.handle!);
        await session.elapse(i);
      }
      for (const recording of recordings) {
        session.engine.cancel(recording.handle!);
        session.engine.cancel(recording.handle!);
      }
      await session.settled(...recordings);
      assert.ok(recordings.filter(({ outcome }) => outcome === 'cancelled').length >= 6, `outcomes: ${recordings.map(({ outcome }) => outcome).join()}`);
      await session.until('the blocks of cancelled requests come back', () => session.engine.load().usedBlocks === 0);
      assert.ok(recordings.every(({ calls }) => calls.indexOf('end') === calls.length - 1), 'nothing comes after the end');
    }),
    rule(options, 'cancel after the end changes nothing', async (session) => {
      const recording = await session.run(session.prompt(15, 12));
      session.engine.cancel(recording.handle!);
      await session.settled(recording);
      assert.deepEqual([recording.outcome, recording.ends.length], ['finished', 1]);
    }),
    rule(options, 'a sink that throws harms nobody else', async (session) => {
      const healthy = session.submit(session.request(session.prompt(16, 12)));
      session.engine.submit(session.request(session.prompt(17, 12)), {
        tokens() {
          throw new Error('sink');
        },
        end() {
          throw new Error('sink');
        },
      });
      await session.settled(healthy);
      assert.equal(healthy.outcome, 'finished');
      assert.equal(session.engine.failure(), undefined);
      assert.equal((await session.run(session.prompt(18, 12))).outcome, 'finished');
    }),
    rule(options, 'many requests at once all finish, and all blocks come back', async (session) => {
      const seed = options.seed ?? 1;
      const next = seeded(seed);
      const recordings = Array.from({ length: 40 }, (_, i) =>
        session.submit(session.request(session.prompt(300 + i, 1 + next(session.blockSize * 6)), { choices: 1 + next(2), priority: next(3), ...stop({ maxTokens: 1 + next(30) }) })),
      );
      const { usedBlocks, freeBlocks, totalBlocks, running, waiting } = session.engine.load();
      assert.equal(usedBlocks + freeBlocks, totalBlocks);
      assert.ok(running + waiting >= 1, 'load counts what was submitted');
      await session.settled(...recordings);
      recordings.forEach((recording, i) => assert.equal(recording.outcome, 'finished', `seed ${seed}, request ${i}`));
      assert.deepEqual([session.engine.load().usedBlocks, session.engine.load().prefillTokens], [0, 0], `seed ${seed}: used blocks, prefill tokens`);
    }),
  ];
}

function lifecycleRules(options: RuleOptions): ContractRule[] {
  return [
    rule(options, 'close ends what runs, once, and refuses what comes', async (session) => {
      const recordings = [19, 20, 21].map((seed) => session.submit(session.request(session.prompt(seed, 30), stop({ maxTokens: 1000 }))));
      let closing: Promise<void> | undefined;
      (recordings[0] as Recording).onBatch = () => void (closing ??= session.close());
      await session.until('the first token', () => closing !== undefined);
      await closing;
      await session.close();
      for (const recording of recordings) {
        assert.equal(recording.ends.length, 1);
        assert.match(recording.outcome, /^failed /);
      }
      const late = session.submit(session.request(session.prompt(22, 5)));
      assert.match(late.outcome, /^failed /, 'a request after close is refused at once');
    }),
    rule(options, 'drain finishes what runs and refuses what comes', async (session) => {
      if (session.engine.drain === undefined) return;
      const running = session.submit(session.request(session.prompt(23, 30)));
      let isDrained = false;
      void Promise.resolve(session.engine.drain(60_000)).then(() => (isDrained = true));
      const late = session.submit(session.request(session.prompt(24, 5)));
      await session.until('drain ends', () => isDrained);
      assert.equal(running.outcome, 'finished');
      assert.match(late.outcome, /^failed /);
    }),
    {
      name: 'engines that were created and closed leave nothing behind',
      run: async () => {
        const rounds = options.rounds ?? 100;
        const open = (): number => process.getActiveResourcesInfo().length;
        for (let i = 0; i < 3; i++) await (await options.create()).close?.();
        const before = open();
        for (let i = 0; i < rounds; i++) {
          if (i % 10 !== 0) {
            await (await options.create()).close?.();
            continue;
          }
          const session = await EngineSession.open(options);
          session.submit(session.request(session.prompt(i, 20)));
          await session.elapse(1);
          await session.close();
        }
        await options.elapse(10);
        assert.ok(open() <= before + 2, `${open()} open handles after ${rounds} engines, ${before} before`);
      },
    },
  ];
}
