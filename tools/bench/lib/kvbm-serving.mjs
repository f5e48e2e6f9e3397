import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { builtins } from '@armature/cli';
import { boot } from '@armature/core';
import { deployment } from '@armature/serving';
import { median, seeded } from './measure.mjs';

const CONVERSATIONS = 12;
const TURNS = 5;
const FIRST_TOKENS = 480;
const TOKENS_A_TURN = 64;
const OUTPUT_TOKENS = 4;
/** The device holds little more than the prompt that runs: 56 blocks of 16 tokens. */
const DEVICE_BLOCKS = 56;

const GREEDY = { temperature: 0, topP: 1, topK: 0, minP: 0, seedLo: 1, seedHi: 0, frequencyPenalty: 0, presencePenalty: 0, repetitionPenalty: 1, biasTokenIds: new Int32Array(0), biasValues: new Float32Array(0), topLogprobs: 0 };

/** Tiers of each variant; nothing else differs. Host memory of `disk alone` and `slow disk` holds one conversation, `host + disk` five of twelve. */
function variants(folder) {
  const host = (capacity) => ({ use: 'host', config: { capacity } });
  const disk = (name, more = {}) => ({ use: 'disk', config: { path: join(folder, name), capacity: '256MiB', ...more } });
  const written = { policy: { use: 'lineage', config: { offload: { host: 'stored' } } } };
  return {
    'without tiers': undefined,
    'host + disk': { tiers: [host('8MiB'), disk('both')], ...written },
    'disk alone': { tiers: [host('2MiB'), disk('alone')], ...written },
    'slow disk': { tiers: [host('2MiB'), disk('slow', { readBytesPerSecond: '256KiB', writeBytesPerSecond: '1MiB' })], ...written },
  };
}

/**
 * Conversations that come back in turn, each time 64 tokens longer, on the reference engine with the demo model; the same requests to every variant, one after the
 * other, variants alternating. Answers must be equal to the last bit.
 */
export async function servingRows({ root, folder, log }) {
  const place = mkdtempSync(join(folder, '.bench-kvbm-'));
  const apps = {};
  try {
    for (const [name, kvbm] of Object.entries(variants(place))) apps[name] = await start(root, kvbm);
    const ttft = await workload(apps, conversations(apps['without tiers']));
    for (const [name, app] of Object.entries(apps)) log(`${name}: ${await summary(app)}`);
    return rowsOf(ttft, log);
  } finally {
    for (const app of Object.values(apps)) await app.close(2_000);
    rmSync(place, { recursive: true, force: true });
  }
}

async function start(root, kvbm) {
  const worker = { name: 'w', engine: { use: 'reference', config: { totalBlocks: DEVICE_BLOCKS, maxModelTokens: DEVICE_BLOCKS * 16 - 16 } }, ...(kvbm === undefined ? {} : { kvbm }) };
  const configText = JSON.stringify({ apiVersion: 'armature/v1', models: [{ name: 'demo', source: '@armature/model-demo', workers: [worker] }] });
  const app = await boot({ configText, baseDir: root, root: deployment, builtins: await builtins(), env: { ...process.env, ARMATURE_LOG_LEVEL: 'error' }, processMetrics: false, random: 1 });
  await app.start();
  return app;
}

const modelOf = (app) => app.deployment.get('demo');

/** Tokens of long chats in the demo model's language; a prompt of turn t is the chat's beginning. */
function conversations(app) {
  const random = seeded(3);
  const names = ['Biscuit', 'Rufus', 'Bandit', 'Pepper', 'Mocha', 'Shadow', 'Toffee', 'Ziggy'];
  const cities = ['Oslo', 'Cairo', 'Paris', 'London', 'Berlin', 'Madrid', 'Rome', 'Vienna'];
  return Array.from({ length: CONVERSATIONS }, (_, chat) => {
    const messages = [{ role: 'system', content: `You are helpful assistant ${chat}.` }];
    for (;;) {
      messages.push({ role: 'user', content: `My dog is called ${names[random.below(8)]}. My brother lives in ${cities[random.below(8)]}. My number is ${10 + random.below(90)}.` });
      messages.push({ role: 'assistant', content: 'Okay, I will remember all of that.' });
      const { tokenIds } = modelOf(app).preprocessor.encodeChat({ messages, addGenerationPrompt: false, continueFinalMessage: false });
      if (tokenIds.length >= FIRST_TOKENS + TURNS * TOKENS_A_TURN) return tokenIds;
    }
  });
}

async function workload(apps, chats) {
  const names = Object.keys(apps);
  const ttft = Object.fromEntries(names.map((name) => [name, []]));
  for (let turn = 0; turn < TURNS; turn++) {
    for (const [i, chat] of chats.entries()) {
      const prompt = chat.subarray(0, FIRST_TOKENS + turn * TOKENS_A_TURN);
      const answers = {};
      for (let k = 0; k < names.length; k++) {
        const name = names[(i + turn + k) % names.length];
        const { firstMs, output } = await ask(apps[name], prompt, `${turn}-${i}`);
        answers[name] = output;
        // First turns are new to everybody: they are in the mean of all, not in that of later turns.
        ttft[name].push({ turn, firstMs });
      }
      for (const name of names) if (answers[name] !== answers[names[0]]) throw new Error(`"${name}" answered otherwise than "${names[0]}": ${answers[name]} instead of ${answers[names[0]]}`);
    }
  }
  return ttft;
}

function ask(app, promptTokenIds, id) {
  const request = { id: `bench-${id}`, promptTokenIds, sampling: GREEDY, stop: { maxTokens: OUTPUT_TOKENS, minTokens: 0, stopTokenIds: new Int32Array(0), ignoreEos: true }, choices: 1, deadlineMs: 60_000, cacheSalt: '', priority: 0, routing: {}, traceparent: '' };
  return new Promise((resolve, reject) => {
    const startMs = performance.now();
    const tokens = [];
    let firstMs = -1;
    modelOf(app).execute(request, {
      tokens: (batch) => {
        if (firstMs < 0) firstMs = performance.now() - startMs;
        for (let i = 0; i < batch.count; i++) tokens.push(`${batch.tokenIds[i]}:${batch.logprobs?.[i]}`);
      },
      end: (end) => (end.type === 'finished' ? resolve({ firstMs, output: tokens.join(' ') }) : reject(new Error(`a request ended as ${JSON.stringify(end)}`))),
    });
  });
}

async function summary(app) {
  const lines = (await app.metrics.text()).split('\n');
  const runs = lines.filter((line) => line.startsWith('armature_kvbm_hit_blocks_total{'));
  const hits = runs.map((line) => `${/tier="(\w+)"/.exec(line)?.[1] ?? /source="(\w+)"/.exec(line)?.[1]} ${line.slice(line.lastIndexOf(' ') + 1)}`);
  const kv = JSON.parse((await app.admin.handle('/kv', new URLSearchParams())).body)[0];
  return kv === undefined ? 'no tiers' : `hit blocks: ${hits.join(', ') || 'none'}; offloaded ${kv.offloadedBlocks}, dropped ${kv.droppedOffloads}, corrupt ${kv.corruptBlocks}`;
}

function rowsOf(ttft, log) {
  const base = ttft['without tiers'];
  const rows = [];
  for (const [name, samples] of Object.entries(ttft)) {
    const { later, all } = shapes(samples);
    const ratio = later.mean / shapes(base).later.mean;
    log(`${name}: TTFT of later turns mean ${later.mean.toFixed(1)} ms, p50 ${later.p50.toFixed(1)}; with first turns ${all.mean.toFixed(1)} ms, p50 ${all.p50.toFixed(1)}`);
    rows.push({ name: `TTFT mean, later turns, ${name}`, value: later.mean, unit: 'ms' }, { name: `TTFT p50, later turns, ${name}`, value: later.p50, unit: 'ms' });
    if (name !== 'without tiers') rows.push({ name: `TTFT mean, ${name} ÷ without tiers`, value: ratio, unit: 'ratio', target: name === 'slow disk' ? 1.05 : 0.5 });
  }
  return rows;
}

function shapes(samples) {
  const of = (list) => ({ mean: list.reduce((sum, { firstMs }) => sum + firstMs, 0) / list.length, p50: median(list.map(({ firstMs }) => firstMs)) });
  return { all: of(samples), later: of(samples.filter(({ turn }) => turn > 0)) };
}
