import { expect, test } from 'vitest';
import { base } from './testing.test.support.ts';
import { completionBody } from './wire.ts';

const schema = { type: 'object', properties: { name: { type: 'string' } }, required: ['name'] };

test('vLLM gets the format as an OpenAI client writes it, and a prefill leg none', () => {
  const request = { ...base, responseFormat: { type: 'json_schema' as const, name: 'cat', schema: JSON.stringify(schema) } };
  expect(completionBody('m', request, false)['response_format']).toEqual({ type: 'json_schema', json_schema: { name: 'cat', schema } });
  expect(completionBody('m', { ...base, responseFormat: { type: 'json_object' } }, false)['response_format']).toEqual({ type: 'json_object' });
  expect('response_format' in completionBody('m', { ...request, leg: 'prefill' }, false)).toBe(false);
  expect('response_format' in completionBody('m', base, false)).toBe(false);
});
