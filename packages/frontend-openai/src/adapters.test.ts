import type { ModelHandle } from '@armature/contracts';
import { FakeModel, speak } from '@armature/contracts/testing/fake-model';
import { expect, test } from 'vitest';
import { realClock } from './fake-context.test.fixture.ts';
import { serving } from './serving.test.fixture.ts';

class FakeAdapter extends FakeModel {
  readonly parent = 'demo';
}

const models = (): { readonly base: FakeModel; readonly adapter: FakeAdapter; readonly all: readonly ModelHandle[] } => {
  const base = new FakeModel('demo', speak(realClock, 'base', 0));
  const adapter = new FakeAdapter('legal', speak(realClock, 'objection', 0));
  return { base, adapter, all: [base, adapter] };
};
const common = { object: 'model', created: 1_700_000_000, owned_by: 'armature', max_model_len: 1000 };

test('adapters are listed beside their model, with parent and root', async () => {
  await serving(models().all, {}, async ({ url }) => {
    const get = async (path: string): Promise<unknown> => (await fetch(url + path)).json();
    const legal = { ...common, id: 'legal', root: 'legal', parent: 'demo' };
    expect(await get('/v1/models')).toEqual({ object: 'list', data: [{ ...common, id: 'demo', root: 'demo', parent: null }, legal] });
    expect(await get('/v1/models/legal')).toEqual(legal);
  });
});

test('an adapter is asked for as a model: it answers by its name, and counts as traffic of its model', async () => {
  const { base, adapter, all } = models();
  await serving(all, {}, async ({ chat, context }) => {
    const answer = (await (await chat({ model: 'legal', messages: [{ role: 'user', content: 'hi' }] })).json()) as { model: string; choices: { message: { content: string } }[] };
    expect([answer.model, answer.choices[0]?.message.content]).toEqual(['legal', 'objection']);
    expect([base.runs.length, adapter.runs.length]).toEqual([0, 1]);
    expect([...context.metrics.values.keys()].filter((key) => key.includes('{legal'))).toEqual([]);
    expect([...context.metrics.values.keys()].some((key) => key.includes('{demo'))).toBe(true);
  });
});

test('unknown: 404 as any unknown model; known, and nobody has it now: 503, its code, and when to come back', async () => {
  const { adapter, all } = models();
  adapter.script = (run) => run.end({ type: 'failed', error: { code: 'SERVING_NO_ADAPTER_WORKER', message: 'nobody has it', retryable: true } });
  await serving(all, {}, async ({ complete }) => {
    const unknown = await complete({ model: 'demo-legal', prompt: 'hi' });
    expect([unknown.status, await unknown.json()]).toMatchObject([404, { error: { code: 'model_not_found', param: 'model' } }]);
    const vacant = await complete({ model: 'legal', prompt: 'hi' });
    expect([vacant.status, vacant.headers.get('retry-after'), vacant.headers.get('x-should-retry')]).toEqual([503, '1', 'true']);
    expect(await vacant.json()).toMatchObject({ error: { code: 'SERVING_NO_ADAPTER_WORKER' } });
  });
});
