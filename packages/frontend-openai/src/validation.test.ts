import { expect, test } from 'vitest';
import { ApiError } from './api-error.ts';
import { parseChat } from './chat-fields.ts';
import { parseCompletion } from './completion-fields.ts';
import { seeded } from './fake-context.test.fixture.ts';
import type { Json } from './fields.ts';
import { CHAT_REQUEST, COMPLETION_REQUEST, openApiDocument } from './openapi.ts';
import { parseBody } from './parse-body.ts';

type Schema = Readonly<Record<string, unknown>>;
const CHAT: Json = { model: 'demo', messages: [{ role: 'user', content: 'hi' }] };
const COMPLETION: Json = { model: 'demo', prompt: 'hi' };
const ENDPOINTS = [
  ['chat', parseChat, CHAT, CHAT_REQUEST],
  ['completions', parseCompletion, COMPLETION, COMPLETION_REQUEST],
] as const;

/** The 400 a body gets, or undefined when it is accepted. Anything else fails the test. */
function refusal(parse: (body: Json) => unknown, body: Json): { param: string | null; code: string; message: string } | undefined {
  try {
    parse(body);
    return undefined;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    expect(error.problem.status).toBe(400);
    expect(error.problem.code).toMatch(/^[a-z_]+$/);
    expect(error.problem.message.length).toBeGreaterThan(10);
    return error.problem;
  }
}

/** Valid and invalid values of a schema, as far as it says. */
function samples(schema: Schema): { good: unknown[]; bad: unknown[] } {
  if (Array.isArray(schema['anyOf'])) {
    const all = (schema['anyOf'] as Schema[]).map(samples);
    return { good: all.flatMap((one) => one.good), bad: [{ a: 1 }, true] };
  }
  if (Array.isArray(schema['enum'])) return { good: [...schema['enum']], bad: ['no-such-word', 7] };
  if (schema['const'] !== undefined) return { good: [schema['const']], bad: ['no-such-word', 7] };
  const type = [schema['type']].flat();
  const good: unknown[] = type.includes('null') ? [null] : [];
  const bad: unknown[] = [];
  for (const one of type) {
    if (one === 'number' || one === 'integer') {
      const min = (schema['minimum'] ?? undefined) as number | undefined;
      const max = schema['maximum'] as number | undefined;
      if (min !== undefined) {
        good.push(min);
        bad.push(min - (min < -1e9 ? 1e9 : 1));
      } else if (schema['exclusiveMinimum'] !== undefined) bad.push(schema['exclusiveMinimum']);
      if (max !== undefined) {
        good.push(max);
        bad.push(max * 2 + 1);
      }
      if (one === 'integer') bad.push(1.5);
      bad.push('1', true, [], {});
    } else if (one === 'boolean') {
      good.push(true, false);
      bad.push('true', 1, {});
    } else if (one === 'string') {
      good.push('x');
      if (schema['maxLength'] !== undefined) bad.push('x'.repeat((schema['maxLength'] as number) + 1));
      bad.push(1, false, []);
    } else if (one === 'array') {
      if (schema['minItems'] === undefined) good.push([]);
      bad.push('x', 1, {});
      if (schema['maxItems'] !== undefined) bad.push(Array((schema['maxItems'] as number) + 1).fill(samples(schema['items'] as Schema).good.at(-1)));
      const item = samples(schema['items'] as Schema);
      for (const value of item.bad) bad.push([value]);
    } else if (one === 'object') {
      bad.push('x', 1, []);
      const properties = (schema['properties'] ?? {}) as Record<string, Schema>;
      for (const [key, property] of Object.entries(properties)) {
        const inner = samples(property);
        if (schema['required'] === undefined) good.push(...inner.good.map((value) => ({ [key]: value })));
        bad.push(...inner.bad.map((value) => ({ [key]: value })));
      }
    }
  }
  return { good, bad };
}

/** What else a field needs to be accepted. */
const COMPANIONS: Readonly<Record<string, Json>> = {
  stream_options: { stream: true },
  top_logprobs: { logprobs: true },
  best_of: {},
  tools: { tool_choice: 'none' },
};
/** Accepted by the field itself, refused by a rule between fields that the schema states in words. */
const BETWEEN = new Set(['best_of', 'continue_final_message', 'messages', 'tools', 'response_format', 'modalities', 'logit_bias', 'prompt']);

for (const [name, parse, valid, schema] of ENDPOINTS) {
  const properties = schema['properties'] as Record<string, Schema>;

  test(`${name}: the OpenAPI schema and the validator agree on every field's limits`, () => {
    let checked = 0;
    for (const [key, property] of Object.entries(properties)) {
      const companions = COMPANIONS[key] ?? {};
      const { good, bad } = samples(property);
      for (const value of good) {
        if (BETWEEN.has(key) || key === 'model') continue;
        expect(refusal(parse, { ...valid, ...companions, [key]: value }), `${key} = ${JSON.stringify(value)?.slice(0, 80)}`).toBeUndefined();
        checked++;
      }
      for (const value of bad) {
        const found = refusal(parse, { ...valid, ...companions, [key]: value });
        expect(found, `${key} = ${JSON.stringify(value)?.slice(0, 80)} is accepted`).toBeDefined();
        expect(found!.param?.startsWith(key) || (key === 'stream_options' && found!.param === 'stream_options'), `${key}: names ${found!.param}`).toBe(true);
        checked++;
      }
    }
    expect(checked).toBeGreaterThan(200);
  });

  test(`${name}: the OpenAPI schema lists every field the validator reads`, () => {
    const read = new Set<string>();
    const spy = new Proxy(valid, {
      get: (target, key) => {
        read.add(String(key));
        return target[String(key)];
      },
    });
    parse(spy);
    const refused = ['guided_json', 'guided_regex', 'guided_choice', 'guided_grammar', 'structured_outputs', 'suffix', 'prompt_logprobs', 'audio', 'functions'];
    expect([...read].filter((key) => properties[key] === undefined && !refused.includes(key))).toEqual([]);
    for (const key of refused.filter((one) => read.has(one))) expect(refusal(parse, { ...valid, [key]: 'x' })?.code).toBe('unsupported_parameter');
  });

  test(`${name}: random JSON gets a 400 or is accepted, and nothing else`, () => {
    const seed = (Date.now() & 0xffffff) | 1;
    const random = seeded(seed);
    const keys = [...Object.keys(properties), 'tools', 'audio', 'functions', '__proto__', 'constructor'];
    const value = (depth: number): unknown => {
      switch (random.below(depth > 3 ? 9 : 12)) {
        case 0:
          return null;
        case 1:
          return random.below(2) === 0;
        case 2:
          return random.below(5) - 2;
        case 3:
          return random.next() * 4 - 2;
        case 4:
          return [Number.MAX_SAFE_INTEGER, -1e308, 1e308, 2 ** 31, 0.1, -0][random.below(6)];
        case 5:
          return ['', 'x', 'user', 'assistant', 'text', 'none', 'auto', '\ud800', '🦙', 'function', 'image_url'][random.below(11)];
        case 6:
          return 'y'.repeat(random.below(3000));
        case 7:
          return undefined;
        case 8:
          return { role: 'user', content: [{ type: 'text', text: 'x' }] };
        case 9:
          return Array.from({ length: random.below(5) }, () => value(depth + 1));
        default: {
          const object: Record<string, unknown> = {};
          const names = ['role', 'content', 'type', 'text', 'name', 'include_usage', 'function', '12', 'tool_calls', 'agent_hints', 'priority', '__proto__'];
          for (let i = random.below(4); i > 0; i--) object[names[random.below(names.length)]!] = value(depth + 1);
          return object;
        }
      }
    };
    let accepted = 0;
    let refused = 0;
    for (let i = 0; i < 20_000; i++) {
      const body: Record<string, unknown> = random.below(8) === 0 ? {} : { ...valid };
      for (let k = random.below(4); k > 0; k--) body[keys[random.below(keys.length)]!] = value(0);
      let found: ReturnType<typeof refusal>;
      try {
        found = refusal(parse, body);
      } catch (error) {
        throw new Error(`seed ${seed}, round ${i}: ${JSON.stringify(body).slice(0, 500)}`, { cause: error });
      }
      if (found === undefined) accepted++;
      else refused++;
    }
    expect(accepted).toBeGreaterThan(500);
    expect(refused).toBeGreaterThan(5000);
  });
}

test('bytes that are no JSON object get a 400', () => {
  const cases: readonly (readonly [Uint8Array | string, string])[] = [
    ['', 'empty_body'],
    ['{"a":1', 'invalid_json'],
    ['{"a":NaN}', 'invalid_json'],
    ['{"a":Infinity}', 'invalid_json'],
    ["{'a':1}", 'invalid_json'],
    ['null', 'invalid_type'],
    ['[1]', 'invalid_type'],
    ['"x"', 'invalid_type'],
    [Uint8Array.from([0x7b, 0x22, 0xff, 0x22, 0x7d]), 'invalid_utf8'],
    [Uint8Array.from([0xc0, 0x80]), 'invalid_utf8'],
    [Uint8Array.from([0xed, 0xa0, 0x80]), 'invalid_utf8'],
    ['['.repeat(200_000), 'invalid_json'],
  ];
  for (const [bytes, code] of cases) {
    let found: unknown;
    try {
      parseBody(typeof bytes === 'string' ? Buffer.from(bytes) : bytes);
    } catch (error) {
      found = error;
    }
    expect(found).toBeInstanceOf(ApiError);
    expect((found as ApiError).problem.code).toBe(code);
  }
  expect(parseBody(Buffer.from('{"é":"🦙"}'))).toEqual({ é: '🦙' });
});

test('random bytes get a 400', () => {
  const random = seeded(7);
  const alphabet = '{}[]":,0123456789.eE+-truefalsnl \\u\n"é🦙';
  for (let i = 0; i < 5000; i++) {
    let text = '';
    for (let k = random.below(30); k > 0; k--) text += alphabet[random.below(alphabet.length)];
    const bytes = Buffer.from(text);
    if (random.below(3) === 0 && bytes.length > 0) bytes[random.below(bytes.length)] = random.below(256);
    try {
      parseBody(bytes);
    } catch (error) {
      expect(error).toBeInstanceOf(ApiError);
    }
  }
});

test('each error names its field', () => {
  const message = (message: unknown): Json => ({ model: 'demo', messages: [{ role: 'user', content: 'a' }, message] });
  const cases: readonly (readonly [Json, string, string])[] = [
    [message('x'), 'messages[1]', 'invalid_type'],
    [message({ content: 'x' }), 'messages[1].role', 'missing_required_parameter'],
    [message({ role: 'robot', content: 'x' }), 'messages[1].role', 'invalid_value'],
    [message({ role: 'user' }), 'messages[1].content', 'missing_required_parameter'],
    [message({ role: 'user', content: null }), 'messages[1].content', 'missing_required_parameter'],
    [message({ role: 'user', content: 5 }), 'messages[1].content', 'invalid_type'],
    [message({ role: 'user', content: [] }), 'messages[1].content', 'empty_array'],
    [message({ role: 'user', content: ['x'] }), 'messages[1].content[0]', 'invalid_type'],
    [message({ role: 'user', content: [{ type: 'text' }] }), 'messages[1].content[0].text', 'invalid_type'],
    [message({ role: 'user', content: [{ type: 'text', text: 'x' }, { type: 'image_url', image_url: { url: 'x' } }] }), 'messages[1].content[1]', 'unsupported_content'],
    [message({ role: 'user', content: 'x', name: 4 }), 'messages[1].name', 'invalid_type'],
    [{ ...CHAT, messages: {} }, 'messages', 'invalid_type'],
    [{ ...CHAT, model: '' }, 'model', 'invalid_value'],
    [{ ...CHAT, stop: [''] }, 'stop[0]', 'invalid_value'],
    [{ ...CHAT, stop: ['a', {}] }, 'stop[1]', 'invalid_type'],
    [{ ...CHAT, stop_token_ids: [1, -1] }, 'stop_token_ids[1]', 'invalid_value'],
    [{ ...CHAT, logit_bias: { x: 1 } }, 'logit_bias', 'invalid_value'],
    [{ ...CHAT, logit_bias: { '5': 101 } }, 'logit_bias.5', 'invalid_value'],
    [{ ...CHAT, logit_bias: { '5': null } }, 'logit_bias.5', 'invalid_type'],
    [{ ...CHAT, stream_options: { include_usage: true } }, 'stream_options', 'invalid_value'],
    [{ ...CHAT, stream: true, stream_options: { include_usage: 1 } }, 'stream_options.include_usage', 'invalid_type'],
    [{ ...CHAT, top_logprobs: 3 }, 'top_logprobs', 'invalid_value'],
    [{ ...CHAT, tools: [{ type: 'function', function: { name: 'f' } }] }, 'tools', 'unsupported_parameter'],
    [{ ...CHAT, tools: [{ type: 'function' }], tool_choice: 'none' }, 'tools[0].function', 'invalid_value'],
    [{ ...CHAT, tool_choice: 'required' }, 'tool_choice', 'unsupported_parameter'],
    [{ ...CHAT, tool_choice: { type: 'function' } }, 'tool_choice', 'unsupported_parameter'],
    [{ ...CHAT, response_format: { type: 'structural_tag' } }, 'response_format.type', 'unsupported_parameter'],
    [{ ...CHAT, response_format: { type: 'json_schema' } }, 'response_format.json_schema', 'invalid_type'],
    [{ ...CHAT, response_format: { type: 'json_schema', json_schema: { schema: {} } } }, 'response_format.json_schema.name', 'invalid_type'],
    [{ ...CHAT, response_format: { type: 'json_schema', json_schema: { name: 'a b', schema: {} } } }, 'response_format.json_schema.name', 'invalid_value'],
    [{ ...CHAT, response_format: { type: 'json_schema', json_schema: { name: 'a', schema: 'x' } } }, 'response_format.json_schema.schema', 'invalid_type'],
    [{ ...CHAT, response_format: { type: 'json_schema', json_schema: { name: 'a', schema: { description: 'x'.repeat(70_000) } } } }, 'response_format.json_schema.schema', 'invalid_value'],
    [{ ...CHAT, response_format: {} }, 'response_format.type', 'invalid_type'],
    [{ ...CHAT, continue_final_message: true }, 'continue_final_message', 'invalid_value'],
    [{ ...CHAT, nvext: { router_config_override: { router_temperature: 'x' } } }, 'nvext.router_config_override.router_temperature', 'invalid_type'],
    [{ ...CHAT, nvext: { agent_hints: { priority: 0.5 } } }, 'nvext.agent_hints.priority', 'invalid_value'],
    [{ ...CHAT, temperature: 2.1 }, 'temperature', 'invalid_value'],
  ];
  for (const [body, param, code] of cases) {
    const found = refusal(parseChat, body);
    expect([found?.param, found?.code], JSON.stringify(body)).toEqual([param, code]);
  }
  const completions: readonly (readonly [Json, string, string])[] = [
    [{ ...COMPLETION, prompt: [] }, 'prompt', 'empty_array'],
    [{ ...COMPLETION, prompt: [1, 'a'] }, 'prompt[1]', 'invalid_type'],
    [{ ...COMPLETION, prompt: [1, -2] }, 'prompt[1]', 'invalid_value'],
    [{ ...COMPLETION, prompt: [[1], []] }, 'prompt[1]', 'empty_array'],
    [{ ...COMPLETION, prompt: [[1], [1.5]] }, 'prompt[1][0]', 'invalid_value'],
    [{ ...COMPLETION, echo: true, logprobs: 1 }, 'logprobs', 'unsupported_parameter'],
    [{ ...COMPLETION, prompt: ['a', 'b'], n: 100 }, 'n', 'invalid_value'],
    [{ ...COMPLETION, suffix: 'x' }, 'suffix', 'unsupported_parameter'],
  ];
  for (const [body, param, code] of completions) {
    const found = refusal(parseCompletion, body);
    expect([found?.param, found?.code], JSON.stringify(body)).toEqual([param, code]);
  }
});

test('messages reach the template as the client meant them', () => {
  const { input } = parseChat({
    model: 'demo',
    messages: [
      { role: 'developer', content: 'be brief' },
      { role: 'user', content: [{ type: 'text', text: 'a' }, { type: 'text', text: 'b' }], name: null },
      { role: 'assistant', content: null, tool_calls: [{ id: '1' }] },
      { role: 'tool', content: 'result', tool_call_id: '1' },
    ],
    tools: [{ type: 'function', function: { name: 'f' } }],
    tool_choice: 'none',
    chat_template_kwargs: { enable_thinking: false },
  });
  expect(input).toEqual({
    messages: [
      { role: 'system', content: 'be brief' },
      { role: 'user', content: 'a\nb' },
      { role: 'assistant', content: '', tool_calls: [{ id: '1' }] },
      { role: 'tool', content: 'result', tool_call_id: '1' },
    ],
    addGenerationPrompt: true,
    continueFinalMessage: false,
    tools: [{ type: 'function', function: { name: 'f' } }],
    templateVariables: { enable_thinking: false },
  });
});

test('the OpenAPI document is whole', () => {
  const document = JSON.parse(openApiDocument()) as { openapi: string; paths: object; components: { schemas: object } };
  expect(document.openapi).toBe('3.1.0');
  for (const reference of openApiDocument().matchAll(/#\/components\/schemas\/(\w+)/g)) expect(Object.keys(document.components.schemas)).toContain(reference[1]);
});
