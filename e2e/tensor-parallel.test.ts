import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SystemClock } from '@armature/core';
import { MemoryTransport } from '@armature/nixel';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { conversations } from './support/conversations.ts';
import { deployFile, greedy, metric, modelOf, request, run, start, stopAfter } from './support/in-process.ts';
import type { App, Output, StartOptions } from './support/in-process.ts';
import { ArmatureProcess, freePort, root } from './support/process.ts';

// Pools whose engines split the model over different numbers of ranks: KV blocks are converted while they are pulled.
/** 64 in `npm test`; ARMATURE_CONVERSATIONS=1000 for the whole claim. */
const CONVERSATIONS = Number(process.env['ARMATURE_CONVERSATIONS'] ?? 64);
const SEED = 20261124;

const model = (workers: string): string => `
apiVersion: armature/v1
requests: { use: memory, config: { encode: true } }
events: { use: memory, config: { encode: true } }
discovery: { use: memory, config: { encode: true } }
models:
  - name: demo
    source: "@armature/model-demo"
    workers:
${workers}`;
const aggregated = model('      - { name: worker, replicas: 2, engine: { use: reference } }\n');
const split = (prefill: number, decode: number): string =>
  model(`      - { name: prefill, role: prefill, engine: { use: reference, config: { tensorParallel: ${prefill} } } }
      - { name: decode, role: decode, replicas: 2, engine: { use: reference, config: { tensorParallel: ${decode} } } }
`);

/** Half greedy, half sampled; a few with two choices. */
async function answers(app: App): Promise<string[]> {
  const handle = modelOf(app);
  const prompts = conversations(CONVERSATIONS, SEED).map((messages) => handle.preprocessor.encodeChat({ messages, addGenerationPrompt: true, continueFinalMessage: false }).tokenIds);
  const outputs: Output[] = [];
  for (let i = 0; i < prompts.length; i += 8) {
    const batch = prompts.slice(i, i + 8).map((tokens, k) => {
      const n = i + k;
      const sampling = { ...greedy, topLogprobs: 0, ...(n % 2 === 1 ? { temperature: 0.8, seedLo: n } : {}) };
      return run(handle, request(tokens, { sampling, stop: stopAfter(16), choices: n % 10 === 9 ? 2 : 1 }));
    });
    outputs.push(...(await Promise.all(batch)));
  }
  expect(outputs.every((output) => output.end?.type === 'finished' && output.ends === 1)).toBe(true);
  return outputs.map(({ tokens, logprobs, finish }) => JSON.stringify([tokens, logprobs, finish]));
}

async function answersOf(yaml: string, options: StartOptions = {}): Promise<string[]> {
  const app = await start(yaml, options);
  try {
    return await answers(app);
  } finally {
    await app.close(1_000);
  }
}

interface Counted {
  readonly remotePrefills: number;
  readonly movedBlocks: number;
  readonly failures: number;
}

async function counted(app: App): Promise<Counted> {
  const [remotePrefills, movedBlocks, failures] = await Promise.all(['armature_remote_prefills_total', 'armature_kv_transfer_blocks_total', 'armature_kv_transfer_failures_total'].map((name) => metric(app, name)));
  return { remotePrefills: remotePrefills!, movedBlocks: movedBlocks!, failures: failures! };
}

const different = (a: readonly string[], b: readonly string[]): number => a.filter((output, i) => output !== b[i]).length;

let expected: string[];
beforeAll(async () => {
  expected = await answersOf(aggregated);
}, 60_000 + CONVERSATIONS * 300);

describe(`pools of different tensorParallel answer as one worker does (${CONVERSATIONS} conversations, seed ${SEED})`, () => {
  for (const [prefill, decode] of [[2, 1], [1, 4], [4, 4]] as const) {
    it(`prefill on ${prefill} ranks, decode on ${decode}`, async () => {
      const app = await start(split(prefill, decode));
      const got = await answers(app);
      const counts = await counted(app);
      await app.close(1_000);
      expect(different(expected, got)).toBe(0);
      expect(counts).toMatchObject({ remotePrefills: CONVERSATIONS, failures: 0 });
      expect(counts.movedBlocks).toBeGreaterThan(CONVERSATIONS);
    }, 60_000 + CONVERSATIONS * 300);
  }

  it('deploy/heterogeneous.yaml: 4 ranks feed 2; each pool has its limits and its price', async () => {
    const text = deployFile('heterogeneous.yaml').replace('${ARMATURE_PORT:-8000}', '0').replace('${ARMATURE_ADMIN_PORT:-8001}', '0');
    const app = await start(text);
    const got = await answers(app);
    const counts = await counted(app);
    const workers = JSON.parse((await app.admin.handle('/workers', new URLSearchParams())).body) as Record<string, unknown>[];
    await app.close(1_000);
    expect(different(expected, got)).toBe(0);
    expect(counts).toMatchObject({ remotePrefills: CONVERSATIONS, failures: 0 });
    expect(counts.movedBlocks).toBeGreaterThan(CONVERSATIONS);
    const of = (pool: string): Record<string, unknown>[] => workers.filter((worker) => worker['pool'] === pool);
    expect(of('prefill')).toMatchObject([{ hardware: 'compute', costPerHour: 4, maxBatchedTokens: 2048 }]);
    expect(of('decode')).toMatchObject([{ hardware: 'bandwidth', costPerHour: 2.5, maxBatchedTokens: 256 }, { hardware: 'bandwidth' }]);
  }, 60_000 + CONVERSATIONS * 300);

  it('sabotage: heads that get the bytes of the piece before are seen', async () => {
    let before = new Uint8Array(0);
    let exchanged = 0;
    const exchanging = new MemoryTransport({
      clock: new SystemClock(),
      tap: (bytes) => {
        const own = bytes.slice();
        if (before.length === own.length) {
          bytes.set(before);
          exchanged++;
        }
        before = own;
      },
    });
    const got = await answersOf(split(4, 2), { overrides: { 'transfer-transport': exchanging } });
    expect(exchanged).toBeGreaterThan(0);
    expect(different(expected, got)).toBeGreaterThan(0);
  }, 60_000 + CONVERSATIONS * 300);
});

it('tiers below an engine of 4 ranks keep whole blocks: what comes back answers the same', async () => {
  const kvbm = `, kvbm: { tiers: [{ use: host, config: { capacity: 64MiB } }], policy: { use: lineage, config: { offload: { host: stored } } }, maxSlowdown: 1, fetchDeadlineMs: 20000 }`;
  // A device of a few long conversations, so that another round finds them one tier below.
  const worker = (tensorParallel: number, more: string): string => model(`      - { name: w, engine: { use: reference, config: { tensorParallel: ${tensorParallel}, totalBlocks: 100, maxModelTokens: 1600 } }${more} }\n`);
  const round = async (app: App): Promise<string[]> => {
    const outputs: string[] = [];
    for (const [i, messages] of conversations(12, SEED).entries()) {
      const rules = Array.from({ length: 16 }, (_, rule) => `Rule ${rule} of ${i}: answer with what the user has told you before.`).join(' ');
      const { tokenIds } = modelOf(app).preprocessor.encodeChat({ messages: [{ role: 'system', content: rules }, ...messages.filter(({ role }) => role !== 'system')], addGenerationPrompt: true, continueFinalMessage: false });
      const { tokens, logprobs, end } = await run(modelOf(app), request(tokenIds, { sampling: { ...greedy, topLogprobs: 0 }, stop: stopAfter(12) }));
      outputs.push(JSON.stringify([tokens, logprobs, end?.type]));
    }
    return outputs;
  };
  const alone = await start(worker(1, ''));
  const wanted = await round(alone);
  await alone.close(1_000);
  const app = await start(worker(4, kvbm));
  const kv = async () => (JSON.parse((await app.admin.handle('/kv', new URLSearchParams())).body) as { onboardedBlocks: number; corruptBlocks: number }[])[0]!;
  // What is fetched rather than computed again is a matter of measured cost: as many rounds as it takes, but not for ever.
  for (let i = 0; i < 6 && (await kv()).onboardedBlocks === 0; i++) expect(await round(app)).toEqual(wanted);
  const { onboardedBlocks, corruptBlocks } = await kv();
  await app.close(1_000);
  expect(onboardedBlocks).toBeGreaterThan(0);
  expect(corruptBlocks).toBe(0);
}, 120_000);

describe('in processes of their own, over tcp', () => {
  const folder = mkdtempSync(join(tmpdir(), 'armature-tensor-parallel-'));
  const children: ArmatureProcess[] = [];
  afterAll(async () => {
    await Promise.all(children.filter(({ child }) => child.exitCode === null).map((child) => child.stop('SIGKILL')));
    rmSync(folder, { recursive: true, force: true });
  });

  const worker = (role: string, port: number, tensorParallel: number): string => `
apiVersion: armature/v1
requests: { use: tcp, config: { port: ${port}, token: ranks-secret } }
transports: [{ use: tcp, config: { token: ranks-secret } }]
models:
  - name: demo
    source: ${JSON.stringify(`${root}packages/model-demo/model`)}
    workers: [{ name: ${role}, role: ${role}, engine: { use: reference, config: { tensorParallel: ${tensorParallel} } } }]
`;
  const frontend = (ports: readonly number[]): string => `
apiVersion: armature/v1
requests: { use: tcp, config: { token: ranks-secret, connect: [${ports.map((port) => `"127.0.0.1:${port}"`).join(', ')}] } }
models: [{ name: demo, source: "@armature/model-demo" }]
`;

  async function serve(role: string, tensorParallel: number): Promise<{ child: ArmatureProcess; port: number }> {
    const port = await freePort();
    const file = join(folder, `${role}-${port}.yaml`);
    writeFileSync(file, worker(role, port, tensorParallel));
    const child = new ArmatureProcess(['serve', '-f', file]);
    children.push(child);
    await child.until('Ctrl-C stops');
    return { child, port };
  }

  async function untilJoined(app: App, wanted: number): Promise<void> {
    const deadline = Date.now() + 20_000;
    for (;;) {
      const { body } = await app.admin.handle('/workers', new URLSearchParams());
      if ((JSON.parse(body) as unknown[]).length === wanted) return;
      if (Date.now() > deadline) throw new Error(`workers never joined: ${body}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  for (const [prefill, decode] of [[4, 2], [2, 1]] as const) {
    it(`prefill on ${prefill} ranks, decode on ${decode}`, async () => {
      const [p, d] = [await serve('prefill', prefill), await serve('decode', decode)];
      const app = await start(frontend([p.port, d.port]));
      await untilJoined(app, 2);
      const got = await answers(app);
      const remote = await metric(app, 'armature_remote_prefills_total');
      const requests = JSON.parse((await app.admin.handle('/requests', new URLSearchParams(`limit=${CONVERSATIONS}`))).body) as { transfer?: { movedBlocks: number; outcome: string } }[];
      await app.close(1_000);
      await Promise.all([p.child.stop(), d.child.stop()]);
      expect(different(expected, got)).toBe(0);
      expect(remote).toBe(CONVERSATIONS);
      const transfers = requests.map(({ transfer }) => transfer);
      expect(transfers.filter((transfer) => transfer?.outcome !== 'valid')).toEqual([]);
      expect(transfers.reduce((sum, transfer) => sum + (transfer?.movedBlocks ?? 0), 0)).toBeGreaterThan(CONVERSATIONS);
    }, 120_000);
  }
});
