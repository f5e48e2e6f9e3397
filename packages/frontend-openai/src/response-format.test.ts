import type { ModelHandle } from '@armature/contracts';
import { FakeModel, speak } from '@armature/contracts/testing/fake-model';
import { expect, test } from 'vitest';
import { realClock } from './fake-context.test.fixture.ts';
import { serving } from './serving.test.fixture.ts';

const messages = [{ role: 'user', content: 'hi' }];
const format = { type: 'json_schema', json_schema: { name: 'cat', strict: true, schema: { type: 'object', properties: { name: { type: 'string' } } } } };

function guided(formats: ReturnType<NonNullable<ModelHandle['responseFormats']>>): FakeModel {
  return Object.assign(new FakeModel('demo', speak(realClock, '{}', 0)), { responseFormats: () => formats });
}

test('a schema reaches the engine as it was written, for chat and completions', async () => {
  const model = guided(['json_object', 'json_schema']);
  await serving([model], {}, async ({ chat, complete }) => {
    expect((await chat({ model: 'demo', messages, response_format: format })).status).toBe(200);
    expect((await complete({ model: 'demo', prompt: 'hi', response_format: { type: 'json_object' } })).status).toBe(200);
    expect((await chat({ model: 'demo', messages, response_format: { type: 'text' } })).status).toBe(200);
    expect(model.runs.map(({ request }) => request.responseFormat)).toEqual([{ type: 'json_schema', name: 'cat', schema: JSON.stringify(format.json_schema.schema) }, { type: 'json_object' }, undefined]);
  });
});

test('refused where no worker can hold an answer to it; not refused while it is not known', async () => {
  for (const [formats, status, said] of [[[], 400, 'none of its workers'], [['json_object'], 400, 'its workers can: json_object'], [undefined, 200, '']] as const) {
    const model = guided(formats);
    await serving([model], {}, async ({ chat }) => {
      const answer = await chat({ model: 'demo', messages, response_format: format });
      expect(answer.status).toBe(status);
      if (status === 400) expect(await answer.json()).toMatchObject({ error: { code: 'unsupported_parameter', param: 'response_format', message: expect.stringContaining(said) } });
      expect(model.runs.length).toBe(status === 200 ? 1 : 0);
    });
  }
});
