import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { ArmatureError } from '@armature/contracts';
import type { ChatInput } from '@armature/contracts';
import { demoFolder, fakeContext, modelFolder } from './fake-context.test.helper.ts';
import { HuggingFacePreprocessor, huggingFaceDefaults } from './index.ts';
import type { HuggingFaceConfig } from './index.ts';

const demo = (name: string): Record<string, unknown> => JSON.parse(readFileSync(join(demoFolder, name), 'utf8')) as Record<string, unknown>;
const files = { 'tokenizer.json': demo('tokenizer.json'), 'tokenizer_config.json': demo('tokenizer_config.json'), 'config.json': demo('config.json'), 'generation_config.json': demo('generation_config.json') };
const open = (folder: string, config: Partial<HuggingFaceConfig> = {}): HuggingFacePreprocessor => HuggingFacePreprocessor.create({ ...huggingFaceDefaults, ...config }, fakeContext(folder).context);
const chat = (messages: ChatInput['messages'], more: Partial<ChatInput> = {}): ChatInput => ({ messages, addGenerationPrompt: true, continueFinalMessage: false, ...more });
const withTemplate = (template: unknown, more: Record<string, unknown> = {}): string => modelFolder({ ...files, 'tokenizer_config.json': { ...files['tokenizer_config.json'], chat_template: template }, ...more });

function text(preprocessor: HuggingFacePreprocessor, input: ChatInput): string {
  const output = preprocessor.openText({ stop: [], keepSpecialTokens: true });
  return Array.from(preprocessor.encodeChat(input).tokenIds, (id) => output.push(id)).join('') + output.finish();
}

function errorOf(action: () => unknown): ArmatureError {
  try {
    action();
  } catch (error) {
    if (ArmatureError.is(error)) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}

test('the demo model: card and prompt', () => {
  const preprocessor = open(demoFolder);
  expect(preprocessor.encoderName).toBe('gpt2-digits');
  expect(preprocessor.card).toMatchObject({
    architecture: 'LlamaForCausalLM', vocabSize: 1024, maxModelTokens: 2048, eosTokenIds: [4], bosTokenId: 0,
    defaults: { temperature: 0, maxTokens: 128 }, hasChatTemplate: true,
  });
  expect(preprocessor.card.fingerprint).toMatch(/^[0-9a-f]{64}$/);
  const input = chat([{ role: 'system', content: 'Be kind.' }, { role: 'user', content: ' Hi ' }, { role: 'assistant', content: 'Hello' }, { role: 'user', content: 'Bye' }]);
  expect(text(preprocessor, input)).toBe('<|bos|><|system|> Be kind.<|end|><|user|> Hi<|end|><|assistant|>Hello<|end|><|user|> Bye<|end|><|assistant|>');
  expect([...preprocessor.encodeChat(chat([{ role: 'user', content: 'x' }])).tokenIds.slice(0, 2)]).toEqual([0, 1]);
});

test('the golden prompts of the demo model come out of their own messages', () => {
  const golden = JSON.parse(readFileSync(join(demoFolder, '../golden.json'), 'utf8')) as { items: { prompt: number[] }[] };
  const preprocessor = open(demoFolder);
  for (const { prompt } of golden.items) {
    const output = preprocessor.openText({ stop: [], keepSpecialTokens: true });
    const rendered = prompt.map((id) => output.push(id)).join('') + output.finish();
    const messages = Array.from(rendered.matchAll(/<\|(user|assistant|system)\|> ?(.*?)<\|end\|>/gs), ([, role, content]) => ({ role, content }));
    expect(messages.length).toBeGreaterThan(0);
    expect([...preprocessor.encodeChat(chat(messages)).tokenIds]).toEqual(prompt);
  }
  expect(golden.items.length).toBeGreaterThan(0);
});

test('prefix reuse is counted', () => {
  const fake = fakeContext(demoFolder);
  const preprocessor = HuggingFacePreprocessor.create(huggingFaceDefaults, fake.context);
  const first = [{ role: 'user', content: 'word '.repeat(100) }];
  const a = preprocessor.encodeChat(chat(first));
  const b = preprocessor.encodeChat(chat([...first, { role: 'assistant', content: 'ok' }, { role: 'user', content: 'more' }]));
  expect(a.reusedTokens).toBe(0);
  expect(b.reusedTokens).toBeGreaterThan(100);
  expect(Object.fromEntries(fake.counters)).toEqual({
    armature_preprocessor_prompt_tokens_total: a.tokenIds.length + b.tokenIds.length,
    armature_preprocessor_reused_tokens_total: b.reusedTokens,
  });
});

test('text gets the special tokens of the post-processor, chat does not', () => {
  const tokenizer = JSON.parse(readFileSync(new URL('../fixtures/llama3.tokenizer.json', import.meta.url), 'utf8')) as Record<string, unknown>;
  const folder = withTemplate('{{ bos_token }}{{ messages[0].content }}', { 'tokenizer.json': tokenizer });
  const preprocessor = open(folder);
  expect(preprocessor.encodeText('Hi').tokenIds[0]).toBe(0);
  expect([...preprocessor.encodeText('').tokenIds]).toEqual([0]);
  expect(preprocessor.encodeChat(chat([{ role: 'user', content: 'Hi' }])).tokenIds).not.toContain(0);
});

describe('templates', () => {
  const user = [{ role: 'user', content: 'Q' }];

  test('tools, extra variables, special tokens and the clock reach the template', () => {
    const source = "{{ bos_token }}{% if tools %}{% for t in tools %}<{{ t.function.name }}>{% endfor %}{% endif %}{{ mood }} {{ strftime_now('%d %b %Y') }} {{ messages[0].content }}{{ range(3) | join(',') }}";
    const preprocessor = open(withTemplate(source));
    expect(text(preprocessor, chat(user, { tools: [{ type: 'function', function: { name: 'add' } }], templateVariables: { mood: 'glad', bos_token: 'B' } }))).toBe('B<add>glad 23 Nov 2026 Q0,1,2');
    expect(text(preprocessor, chat(user))).toBe('<|bos|> 23 Nov 2026 Q0,1,2');
    expect(text(preprocessor, chat(user, { templateVariables: { messages: [], mood: 'm' } }))).toBe('<|bos|>m 23 Nov 2026 Q0,1,2');
  });

  test('named templates, a template file of the model, and one from the config', () => {
    const named = open(withTemplate([{ name: 'default', template: 'D' }, { name: 'tool_use', template: 'T' }]));
    expect(text(named, chat(user))).toBe('D');
    expect(text(named, chat(user, { tools: [{}] }))).toBe('T');
    expect(text(named, chat(user, { tools: [] }))).toBe('D');
    expect(text(open(withTemplate('old', { 'chat_template.jinja': 'new' })), chat(user))).toBe('new');
    expect(text(open(withTemplate(undefined, { 'chat_template.json': { chat_template: 'json' } })), chat(user))).toBe('json');
    const folder = withTemplate('own');
    writeFileSync(join(folder, 'mine.jinja'), 'mine');
    expect(text(open(folder, { chatTemplate: 'mine.jinja' }), chat(user))).toBe('mine');
  });

  test('the last message is continued with or without the space that the template trims', () => {
    const continued = (content: string): ChatInput => chat([...user, { role: 'assistant', content }], { continueFinalMessage: true });
    expect(text(open(demoFolder), continued('It is '))).toBe('<|bos|><|user|> Q<|end|><|assistant|>It is');
    const keeping = open(withTemplate("{% for m in messages %}[{{ m.content }}]{% endfor %}{% if add_generation_prompt %}!{% endif %}"));
    expect(text(keeping, continued('It is '))).toBe('[Q][It is ');
    expect(text(keeping, chat(user))).toBe('[Q]!');
    expect(errorOf(() => keeping.encodeChat(continued('  '))).code).toBe('PREPROCESSOR_TEMPLATE_FAILED');
  });

  test('what the template raises, and nonsense it is given, is the client\'s error', () => {
    const raising = open(withTemplate("{% if messages[0].role != 'user' %}{{ raise_exception('user first') }}{% endif %}ok"));
    const error = errorOf(() => raising.encodeChat(chat([{ role: 'system', content: 's' }])));
    expect([error.code, error.message]).toEqual(['PREPROCESSOR_TEMPLATE_FAILED', "the model's chat template refuses these messages: user first"]);
    expect(text(raising, chat(user))).toBe('ok');
    expect(errorOf(() => open(withTemplate('{{ range(0, 10000000) | length }}')).encodeChat(chat(user))).code).toBe('PREPROCESSOR_TEMPLATE_FAILED');
  });

  test('content in text parts is joined', () => {
    const parts = [{ type: 'text', text: 'a' }, { type: 'text', text: 'b' }] as unknown as string;
    expect(text(open(demoFolder), chat([{ role: 'user', content: parts }]))).toBe('<|bos|><|user|> ab<|end|><|assistant|>');
  });
});

describe('files', () => {
  test.each(['tokenizer.json', 'config.json'])('missing %s is named, with what to do', (name) => {
    const error = errorOf(() => open(modelFolder({ ...files, [name]: undefined })));
    expect(error.code).toBe('PREPROCESSOR_FILE_MISSING');
    expect(error.message).toContain(name);
    expect(error.hint).toContain('download');
  });

  test.each(['tokenizer.json', 'config.json', 'tokenizer_config.json', 'generation_config.json'])('damaged %s is named, with what to do', (name) => {
    for (const content of ['{"model": ', '[1]', 'null', 'version https://git-lfs.github.com/spec/v1\noid sha256:0']) {
      const error = errorOf(() => open(modelFolder({ ...files, [name]: content })));
      expect(error.code).toBe('PREPROCESSOR_FILE_INVALID');
      expect(error.message).toContain(name);
      expect(error.hint).toMatch(content.startsWith('version') ? /git lfs pull/ : /download/);
    }
  });

  test('a tokenizer.json of another kind, a template that does not parse, a context of unknown length', () => {
    expect(errorOf(() => open(modelFolder({ ...files, 'tokenizer.json': { version: '1.0' } }))).message).toContain('"model"');
    expect(errorOf(() => open(modelFolder({ ...files, 'tokenizer.json': { model: { type: 'BPE' } } }))).message).toContain('"model.vocab"');
    expect(errorOf(() => open(modelFolder({ ...files, 'tokenizer.json': { model: { type: 'Nope', vocab: {} } } }))).code).toBe('PREPROCESSOR_TOKENIZER_UNSUPPORTED');
    expect(errorOf(() => open(withTemplate('{% for %}'))).code).toBe('PREPROCESSOR_TEMPLATE_INVALID');
    expect(errorOf(() => open(withTemplate(7))).code).toBe('PREPROCESSOR_FILE_INVALID');
    expect(errorOf(() => open(demoFolder, { chatTemplate: 'no/such.jinja' })).message).toContain('no/such.jinja');
    const bare = modelFolder({ 'tokenizer.json': files['tokenizer.json'], 'config.json': {} });
    expect(errorOf(() => open(bare)).hint).toContain('maxModelTokens');
    expect(open(bare, { maxModelTokens: 77 }).card).toMatchObject({ maxModelTokens: 77, hasChatTemplate: false, architecture: 'unknown', vocabSize: 1024, eosTokenIds: [] });
    rmSync(bare, { recursive: true });
  });

  test('another template, tokenizer or config is another fingerprint; generation defaults are not part of it', () => {
    const print = (more: Record<string, unknown>): string => open(modelFolder({ ...files, ...more })).card.fingerprint;
    const same = print({});
    expect(print({ 'generation_config.json': { temperature: 0.3 } })).toBe(same);
    const others = [print({ 'config.json': { ...files['config.json'], rope_theta: 5 } }), open(withTemplate('x')).card.fingerprint];
    expect(new Set([same, ...others]).size).toBe(3);
  });

  test('a layout of its own goes to the library, with a warning', () => {
    const tokenizer = { ...files['tokenizer.json'], pre_tokenizer: { type: 'Sequence', pretokenizers: [{ type: 'Whitespace' }, { type: 'ByteLevel', add_prefix_space: false }] } };
    const fake = fakeContext(modelFolder({ ...files, 'tokenizer.json': tokenizer }));
    const preprocessor = HuggingFacePreprocessor.create(huggingFaceDefaults, fake.context);
    expect(preprocessor.encoderName).toBe('library');
    expect(fake.warnings[0]).toContain('@huggingface/tokenizers');
    expect(preprocessor.encodeText('Hello').tokenIds.length).toBeGreaterThan(0);
  });
});
