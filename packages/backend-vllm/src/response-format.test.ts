import type { EngineRequest } from '@armature/contracts';
import { expect, test } from 'vitest';
import { base, make, Recorder, server } from './testing.test.support.ts';
import { completionBody } from './wire.ts';

const schema = { type: 'object', properties: { name: { type: 'string' } }, required: ['name'] };
const request: EngineRequest = { ...base, responseFormat: { type: 'json_schema', name: 'cat', schema: JSON.stringify(schema) } };

test("the format in vLLM's own words, since 0.11.0 ignores response_format; a prefill leg none", () => {
  const said = (of: EngineRequest) => completionBody('m', of, false)['structured_outputs'];
  expect(said(request)).toEqual({ json: schema });
  expect(said({ ...base, responseFormat: { type: 'json_object' } })).toEqual({ json_object: true });
  for (const free of [base, { ...request, leg: 'prefill' as const }]) expect('structured_outputs' in completionBody('m', free, false)).toBe(false);
  expect('response_format' in completionBody('m', request, false)).toBe(false);
});

test('over HTTP the server gets exactly the schema, once, and a full and a decode leg alike', async () => {
  const backend = make();
  await backend.start();
  for (const leg of ['full', 'decode'] as const) {
    const recorder = new Recorder();
    backend.submit({ ...request, id: leg, leg }, recorder);
    await recorder.ended;
  }
  // The fake refuses what vLLM has no field for, or a constraint of two kinds, before it counts a request.
  expect(server.requests.map(({ body }) => body['structured_outputs'])).toEqual([{ json: schema }, { json: schema }]);
});
