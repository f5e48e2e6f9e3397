// One replay: the production router, policy, engine core and mock engine under the virtual clock.
import { SeededRandom, VirtualClock } from '@armature/core';
import { EngineCore } from '@armature/engine-core';
import { MockRunner, mockDefaults } from '@armature/backend-mock';
import { ModelRouter } from '@armature/serving';
import { noSalt, sequenceHashes } from '@armature/tokens';

const NOTHING = () => {};
const metric = { inc: NOTHING, set: NOTHING, observe: NOTHING, add: NOTHING, dec: NOTHING };
const family = { with: () => metric };
export const metrics = { counter: () => family, gauge: () => family, histogram: () => family, onCollect: () => NOTHING };
export const log = { debug: NOTHING, info: NOTHING, warn: NOTHING, error: (message, fields) => fail(message, fields), child: () => log, isEnabled: () => false };

/** Nothing in a replay may go wrong. */
function fail(message, fields) {
  throw new Error(`${message} ${JSON.stringify(fields)}`);
}

const SAMPLING = { temperature: 0, topP: 1, topK: 0, minP: 0, seedLo: 0, seedHi: 0, frequencyPenalty: 0, presencePenalty: 0, repetitionPenalty: 1, biasTokenIds: new Int32Array(0), biasValues: new Float32Array(0), topLogprobs: -1 };
const NO_TOKENS = new Int32Array(0);
const MAX_MODEL_TOKENS = 262_144;
const prompts = new WeakMap();

/** Token ids follow from block ids, so that equal block ids mean equal hashes; hashed once per trace row. */
function promptOf(row, blockSize) {
  let prompt = prompts.get(row.blocks);
  if (prompt === undefined) {
    const tokenIds = new Int32Array(row.promptTokens);
    for (let i = 0; i < row.blocks.length; i++) tokenIds.fill(row.blocks[i], i * blockSize, (i + 1) * blockSize);
    prompt = { tokenIds, hashes: sequenceHashes(tokenIds, tokenIds.length, blockSize, noSalt) };
    prompts.set(row.blocks, prompt);
  }
  return prompt;
}

/**
 * @param options.trace see traces.mjs; `options.timeScale` multiplies its times.
 * @param options.concurrency closed loop instead: so many requests at once, arrival times ignored.
 * @param options.policy (context) => RouterPolicy
 * @param options.blocksPerWorker KV blocks of each engine
 */
export async function replay(options) {
  const world = new World(options);
  await world.start();
  const wallBefore = performance.now();
  world.feed();
  await world.clock.runUntilIdle();
  return world.report((performance.now() - wallBefore) / 1000);
}

class World {
  constructor(options) {
    this.options = options;
    this.clock = new VirtualClock();
    this.random = new SeededRandom(options.seed ?? 1);
    const { clock, random } = this;
    const policy = options.policy({ clock, random, log, metrics, path: 'bench' });
    this.engines = [];
    const snapshot = (worker, done) => done(this.engines[worker.index].snapshot());
    this.router = new ModelRouter({ model: 'bench', policy, clock, random, log, metrics, snapshot });
    this.outcomes = [];
    this.perWorker = [];
    this.next = 0;
    this.lastSubmitMs = 0;
  }

  async start() {
    const { workers, blocksPerWorker, trace, engine } = this.options;
    const { blockSize } = trace;
    const config = { ...mockDefaults, vocabSize: 0x7fffffff, maxModelTokens: MAX_MODEL_TOKENS, totalBlocks: blocksPerWorker, ...engine };
    for (let index = 0; index < workers; index++) {
      const runner = new MockRunner({ config, blockSize, clock: this.clock, log, corruptions: metric });
      const { maxSequences, maxBatchedTokens, maxWaiting, stepTimeoutMs } = config;
      const core = new EngineCore({ runner, clock: this.clock, log, maxSequences, maxBatchedTokens, maxWaiting, stepTimeoutMs });
      await core.start();
      this.engines.push(core);
      const instanceId = `w/${index}@1`;
      const { totalBlocks, maxModelTokens, modelFingerprint } = core.info;
      this.router.join({
        instanceId, model: 'bench', pool: 'w', index, role: 'both', address: '', engine: 'mock', hardware: '', costPerHour: 0, taints: [], blockSize, totalBlocks,
        maxModelTokens, maxBatchedTokens, firstToken: 'prefill', modelFingerprint, kvEvents: true, layoutFingerprint: '', agentMetadata: new Uint8Array(0), protocol: 1,
      });
      // As the memory event plane does: an event arrives in a later turn of the same instant.
      core.onKvEvent((event) => this.clock.defer(() => this.router.apply(instanceId, event)));
      this.perWorker.push(0);
    }
  }

  feed() {
    const { trace, concurrency, timeScale = 1 } = this.options;
    if (concurrency !== undefined) {
      for (let i = 0; i < concurrency; i++) this.#submitNext();
      return;
    }
    const arrive = () => {
      const { rows } = trace;
      while (this.next < rows.length && rows[this.next].atMs * timeScale <= this.clock.nowMs() + 1e-6) this.#submitNext();
      if (this.next < rows.length) this.clock.setTimer(rows[this.next].atMs * timeScale - this.clock.nowMs(), arrive);
    };
    arrive();
  }

  #submitNext() {
    const { trace } = this.options;
    if (this.next >= trace.rows.length) return;
    this.#submit(this.next, trace.rows[this.next++]);
  }

  #submit(number, row) {
    const { trace, concurrency } = this.options;
    const { blockSize } = trace;
    const { router, clock } = this;
    const { tokenIds, hashes } = promptOf(row, blockSize);
    const startedAtMs = clock.nowMs();
    this.lastSubmitMs = startedAtMs;
    const id = `r${number}`;
    const query = { id, hop: 'aggregated', role: 'both', promptTokens: row.promptTokens, sequenceHashes: hashes, blockSize, creditsOverlap: true, overrides: {}, excluded: [], startedAtMs };
    const route = router.route(query);
    if (route instanceof Error) throw route;
    const charge = router.dispatch(route, query, 'aggregated');
    const worker = route.worker.index;
    this.perWorker[worker]++;
    const outcome = { worker, promptTokens: row.promptTokens, overlapBlocks: route.overlapBlocks, cachedTokens: 0, ttftMs: NaN, endMs: NaN, outputTokens: 0 };
    this.outcomes[number] = outcome;
    const sink = {
      tokens: (batch) => {
        const before = outcome.outputTokens;
        outcome.outputTokens += batch.count;
        if (before === 0) {
          outcome.ttftMs = clock.nowMs() - startedAtMs;
          router.prefilled(charge, id);
        }
        if (Math.ceil((row.promptTokens + outcome.outputTokens) / blockSize) > Math.ceil((row.promptTokens + before) / blockSize)) router.grown(charge, id, outcome.outputTokens);
      },
      end: (end, eventId) => {
        if (end.type !== 'finished') fail('request did not finish', { id, end });
        outcome.cachedTokens = end.usage.cachedTokens;
        outcome.endMs = clock.nowMs() - startedAtMs;
        router.whenApplied(route.slot, eventId ?? 0, () => {
          router.ended(charge, id);
          if (concurrency !== undefined) this.#submitNext();
        });
      },
    };
    const stop = { maxTokens: Math.min(row.outputTokens, MAX_MODEL_TOKENS - row.promptTokens), minTokens: 0, stopTokenIds: NO_TOKENS, ignoreEos: true };
    const engineRequest = { id, leg: 'full', tokenIds, promptTokens: row.promptTokens, sequenceHashes: hashes, cacheSalt: '', sampling: SAMPLING, stop, choices: 1, firstTokens: undefined, priority: 0, kvSource: undefined, leaseTtlMs: 0 };
    this.engines[worker].submit(engineRequest, sink);
  }

  report(wallSeconds) {
    const { trace } = this.options;
    const { outcomes, perWorker, engines } = this;
    if (outcomes.length !== trace.rows.length || outcomes.some((outcome) => Number.isNaN(outcome.endMs))) fail('not every request ended', { ended: outcomes.length });
    let cached = 0;
    let error = 0;
    const ttft = new Float64Array(outcomes.length);
    let e2e = 0;
    let itl = 0;
    let steps = 0;
    outcomes.forEach((outcome, i) => {
      cached += Math.floor(outcome.cachedTokens / trace.blockSize);
      error += Math.abs(outcome.overlapBlocks - Math.floor(outcome.cachedTokens / trace.blockSize));
      ttft[i] = outcome.ttftMs;
      e2e += outcome.endMs;
      itl += outcome.endMs - outcome.ttftMs;
      steps += outcome.outputTokens - 1;
    });
    ttft.sort();
    const mean = outcomes.length / perWorker.length;
    return {
      hitRate: cached / trace.completeBlocks,
      ttftMeanMs: ttft.reduce((sum, value) => sum + value, 0) / ttft.length,
      ttftP50Ms: percentile(ttft, 0.5),
      ttftP99Ms: percentile(ttft, 0.99),
      itlMeanMs: steps === 0 ? 0 : itl / steps,
      e2eMeanMs: e2e / outcomes.length,
      busiest: Math.max(...perWorker) / mean,
      idle: perWorker.filter((count) => count === 0).length,
      preemptions: engines.reduce((sum, engine) => sum + engine.load().preemptions, 0),
      overlapErrorBlocks: error / outcomes.length,
      /** Of a closed loop: until the last request is sent, so that stragglers do not count. */
      requestsPerSecond: ((outcomes.length - (this.options.concurrency ?? 0)) / this.lastSubmitMs) * 1000,
      perWorker,
      wallSeconds,
    };
  }
}

function percentile(sorted, share) {
  return sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)];
}
