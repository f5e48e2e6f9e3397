import { MemoryRequestPlane, SystemClock } from '@armature/core';
import type { EventListener, EventPlane, Logger, PlainData, RequestPlane } from '@armature/contracts';
import { afterEach, expect, test } from 'vitest';
import { metric, start } from './support/in-process.ts';
import type { App } from './support/in-process.ts';

/** KV events get lost, as between processes: the router makes up for them, and says so while it cannot. */
const yaml = `
apiVersion: armature/v1
admin: { port: 0 }
frontend: { use: openai, config: { port: 0 } }
models:
  - name: demo
    source: "@armature/model-demo"
    workers:
      - { name: w, replicas: 2, engine: { use: mock } }
`;

const nothing = (): void => undefined;
const log: Logger = { debug: nothing, info: nothing, warn: nothing, error: nothing, child: () => log, isEnabled: () => false };

/** Delivers at once, and loses what it is told to. */
class LossyEvents implements EventPlane {
  readonly supports = { processes: true };
  readonly #subscribers: { readonly prefix: string; readonly listener: EventListener }[] = [];
  losesStored = false;
  lost = 0;

  publish(subject: string, payload: PlainData): void {
    if (this.losesStored && (payload as { type?: string }).type === 'stored') {
      this.lost++;
      return;
    }
    for (const { prefix, listener } of [...this.#subscribers]) if (subject.startsWith(prefix)) listener(subject, payload);
  }

  subscribe(prefix: string, listener: EventListener): { close(): void } {
    const entry = { prefix, listener };
    this.#subscribers.push(entry);
    return { close: () => void this.#subscribers.splice(this.#subscribers.indexOf(entry), 1) };
  }
}

/** The memory plane, on which workers do not answer questions about their cache while told so. */
function requestsThatFail(): { readonly plane: RequestPlane; readonly fail: { kv: boolean } } {
  const inner = new MemoryRequestPlane({ encode: false, codec: undefined as never, clock: new SystemClock(), log, highWaterMessages: 1000, maxBufferedMessages: 100_000 });
  const fail = { kv: false };
  const plane: RequestPlane = {
    supports: inner.supports,
    serve: (name, handler) => inner.serve(name, handler),
    close: () => inner.close(),
    open: (address, open, sink) => {
      if (!fail.kv || !open.method.startsWith('kv.')) return inner.open(address, open, sink);
      queueMicrotask(() => sink.closed({ code: 'PLANE_DISCONNECTED', message: 'lost', retryable: true }));
      return { send: () => true, close: nothing };
    },
  };
  return { plane, fail };
}

let app: App | undefined;
afterEach(async () => {
  await app?.close(0);
  app = undefined;
});

interface Worker {
  readonly instanceId: string;
  readonly kvStream: { readonly state: string; readonly reason?: string };
}

async function until(what: string, check: () => Promise<boolean>): Promise<void> {
  for (const deadline = Date.now() + 20_000; Date.now() < deadline; ) {
    if (await check()) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`never came: ${what}`);
}

test('lost events are replayed; a worker that does not answer is degraded everywhere, is served on, and recovers', async () => {
  const events = new LossyEvents();
  const { plane, fail } = requestsThatFail();
  app = await start(yaml, { overrides: { 'event-plane': events, 'request-plane': plane } as never });
  const running = app;
  const { url, adminUrl } = app.deployment.summary();
  let asked = 0;
  const ask = async (): Promise<{ status: number; id: string }> => {
    const content = `This is question number ${++asked}, and it is different from all others. `.repeat(4);
    const response = await fetch(`${url}/v1/chat/completions`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ model: 'demo', max_tokens: 2, messages: [{ role: 'user', content }] }) });
    await response.text();
    return { status: response.status, id: response.headers.get('x-request-id') ?? '' };
  };
  const states = async (): Promise<string[]> => ((await (await fetch(`${adminUrl}/workers`)).json()) as Worker[]).map((worker) => worker.kvStream.state);

  for (let i = 0; i < 4; i++) await ask();
  expect(await states()).toEqual(['live', 'live']);

  events.losesStored = true;
  for (let i = 0; i < 4; i++) expect((await ask()).status).toBe(200);
  expect(events.lost).toBeGreaterThan(0);
  await until('a replay', async () => (await metric(running, 'armature_router_kv_event_replays_total')) > 0);
  expect(await metric(running, 'armature_router_degraded_workers')).toBe(0);

  fail.kv = true;
  for (let i = 0; i < 6; i++) expect((await ask()).status).toBe(200);
  await until('both degraded', async () => (await states()).every((state) => state === 'degraded'));
  expect(await metric(running, 'armature_router_degraded_workers')).toBe(2);
  const health = (await (await fetch(`${adminUrl}/health`)).json()) as { state: string; components: Record<string, { state: string; reason?: string }> };
  expect(health.state).toBe('degraded');
  expect(Object.entries(health.components).filter(([name, { state }]) => name.startsWith('kv events demo/') && state === 'degraded')).toHaveLength(2);
  const { status, id } = await ask();
  expect(status).toBe(200);
  const record = (await (await fetch(`${adminUrl}/requests/${id}`)).json()) as { decisions: { candidates: { degraded: boolean }[] }[] };
  expect(record.decisions[0]?.candidates.map((candidate) => candidate.degraded)).toEqual([true, true]);

  fail.kv = false;
  events.losesStored = false;
  await until('recovery', async () => (await states()).every((state) => state === 'live'));
  expect(await metric(running, 'armature_router_degraded_workers')).toBe(0);
}, 60_000);
