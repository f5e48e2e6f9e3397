import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { conversations } from './support/conversations.ts';
import { CutPlane } from './support/cut-plane.ts';
import type { Cut } from './support/cut-plane.ts';
import { greedy, metric, modelOf, request, run, start, stopAfter } from './support/in-process.ts';
import type { App, Output } from './support/in-process.ts';

/** Real engines, streams that break: what the client gets is what it would have got. */
const yaml = (workers: string): string => `
apiVersion: armature/v1
frontend: { use: openai, config: { port: 0 } }
models:
  - name: demo
    source: "@armature/model-demo"
    workers:
${workers}`;
const aggregated = yaml('      - { name: worker, replicas: 3, engine: { use: reference } }\n');
const split = yaml('      - { name: prefill, role: prefill, replicas: 2, engine: { use: reference } }\n      - { name: decode, role: decode, replicas: 3, engine: { use: reference } }\n');

const TOKENS = 24;
const isLeg = (method: string): boolean => method === 'generate' || method === 'decode';

/** Cuts the stream of an answer each time so many token messages have come through, over all its streams, this many times. */
function cutAt(places: readonly number[]): Cut {
  const left = new Set(places);
  let seen = 0;
  return (open, message, from) => from === 'worker' && isLeg(open.method) && open.message['leg'] !== 'prefill' && message.type === 'tokens' && left.delete(seen++);
}

const content = (output: Output): unknown => [output.tokens, output.logprobs, output.finish, output.end?.type, output.ends];

for (const [name, text] of [['aggregated', aggregated], ['disaggregated', split]] as const) {
  describe(`a lost worker, ${name}`, () => {
    const plane = new CutPlane();
    let app: App;
    let prompts: Int32Array[];

    beforeAll(async () => {
      app = await start(text, { overrides: { 'request-plane': plane } as never });
      prompts = conversations(4, 31).map((messages) => modelOf(app).preprocessor.encodeChat({ messages, addGenerationPrompt: true, continueFinalMessage: false }).tokenIds);
    }, 60_000);
    afterAll(() => app?.close(1_000));

    const ask = (i: number, choices: number): Promise<Output> => {
      const sampling = { ...greedy, temperature: 0.9, seedLo: 40 + i, topLogprobs: 2, frequencyPenalty: 0.3 };
      return run(modelOf(app), request(prompts[i] as Int32Array, { sampling, choices, stop: stopAfter(TOKENS, { ignoreEos: true }) }));
    };

    it('n = 3, sampled, cut in mid-answer once and again: every choice goes on, tokens and logprobs bit for bit', async () => {
      for (let i = 0; i < prompts.length; i++) {
        plane.cut = () => false;
        const expected = await ask(i, 3);
        expect(expected.tokens.map((tokens) => tokens.length)).toEqual([TOKENS, TOKENS, TOKENS]);
        expect(new Set(expected.tokens.map(String)).size, 'choices differ, or the test shows nothing').toBe(3);
        const [moved, cuts] = [await metric(app, 'armature_migrations_total'), plane.cuts];
        plane.cut = cutAt([3 + i, 12 + 2 * i]);
        const got = await ask(i, 3);
        expect(content(got)).toEqual(content(expected));
        expect(plane.cuts - cuts).toBe(2);
        expect((await metric(app, 'armature_migrations_total')) - moved).toBe(2);
      }
    }, 60_000);

    it('workers that were lost come back when they answer, and nothing is left of the answers', async () => {
      const deadline = Date.now() + 20_000;
      while ((await metric(app, 'armature_router_inhibited_workers')) > 0 && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 20));
      expect(await metric(app, 'armature_router_inhibited_total')).toBeGreaterThan(0);
      expect(await metric(app, 'armature_router_returned_total')).toBe(await metric(app, 'armature_router_inhibited_total'));
      type Row = { load: { requests: number; prefillTokens: number; blocks: number }; isInhibited: boolean };
      const workers = JSON.parse((await app.admin.handle('/workers', new URLSearchParams())).body) as Row[];
      expect(workers.map(({ load, isInhibited }) => ({ ...load, isInhibited }))).toEqual(workers.map(() => ({ requests: 0, prefillTokens: 0, blocks: 0, isInhibited: false })));
      const rest = async (): Promise<number> => {
        const engines = JSON.parse((await app.admin.handle('/engines', new URLSearchParams())).body) as { load: { running: number; waiting: number }; kv: { leases: number; reservations: number; quarantined: number } }[];
        return engines.reduce((sum, { load, kv }) => sum + load.running + load.waiting + kv.leases + kv.reservations + kv.quarantined, 0);
      };
      while ((await rest()) > 0 && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 20));
      expect(await rest()).toBe(0);
    }, 60_000);

    it('a stop string that began on one worker ends on the next', async () => {
      plane.cut = () => false;
      const url = (app.deployment as { summary(): { url?: string } }).summary().url;
      const messages = conversations(1, 8)[0];
      const post = async (stop?: string): Promise<{ choices: { message: { content: string }; finish_reason: string }[] }> => {
        const body = JSON.stringify({ model: 'demo', messages, max_tokens: TOKENS, temperature: 0.7, seed: 5, n: 2, ...(stop === undefined ? {} : { stop }) });
        return (await (await fetch(`${url}/v1/chat/completions`, { method: 'POST', headers: { 'content-type': 'application/json' }, body })).json()) as never;
      };
      const whole = (await post()).choices[0]?.message.content ?? '';
      const stop = whole.slice(Math.floor(whole.length / 2), Math.floor(whole.length / 2) + 6); // as a rule of several tokens
      expect(stop.length).toBeGreaterThan(3);
      const expected = (await post(stop)).choices;
      expect(expected[0]?.finish_reason).toBe('stop');
      let cuts = 0;
      for (let place = 0; place < 12; place++) {
        const before = plane.cuts;
        plane.cut = cutAt([place]);
        expect((await post(stop)).choices, `cut at token ${place}`).toEqual(expected);
        cuts += plane.cuts - before;
      }
      expect(cuts).toBeGreaterThan(3);
    }, 60_000);

    if (text === split) {
      it('a decode worker lost before it has the KV: another one reads it; no prompt is computed twice', async () => {
        const legs = async (): Promise<number> => Number(/armature_worker_legs_total\{[^}]*pool="prefill"[^}]*\} (\d+)/.exec(await app.metrics.text())?.[1] ?? NaN);
        for (let i = 0; i < prompts.length; i++) {
          plane.cut = () => false;
          const expected = await ask(i, 2);
          const [prefills, again, moved] = [await legs(), await metric(app, 'armature_decode_reattached_total'), await metric(app, 'armature_migrations_total')];
          let hasCut = false;
          // The lease must outlive it: the worker is not told that its caller has gone, as one that was killed is not.
          plane.cut = (open, message, from) => !hasCut && open.method === 'decode' && from === 'caller' && message.type === 'prefilled' && (hasCut = true);
          const got = await ask(i, 2);
          expect(content(got)).toEqual(content(expected));
          expect([(await legs()) - prefills, (await metric(app, 'armature_decode_reattached_total')) - again, (await metric(app, 'armature_migrations_total')) - moved]).toEqual([1, 1, 0]);
        }
      }, 60_000);
    }
  });
}
