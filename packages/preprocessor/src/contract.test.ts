import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { isPlugin } from '@armature/contracts';
import { preprocessorContract } from '@armature/contracts/testing/preprocessor';
import { huggingFaceDefaults, huggingface } from './index.ts';
import { demoFolder, fakeContext, modelFolder } from './fake-context.test.helper.ts';

const template =
  "{{ bos_token }}{% for m in messages %}{{ '[' + m.role + ']' + m.content | trim + eos_token }}{% endfor %}{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}";
const config = { architectures: ['TestForCausalLM'], max_position_embeddings: 4096 };
const fixture = (name: string): string => readFileSync(new URL(`../fixtures/${name}.tokenizer.json`, import.meta.url), 'utf8');

/** Two models of each kind of tokenizer, with and without a template. */
const models: [string, string, Partial<typeof huggingFaceDefaults>][] = [
  ['demo', demoFolder, {}],
  ['llama3', folder('llama3', '<|begin_of_text|>', '<|eot_id|>'), {}],
  ['qwen2', folder('qwen2', '<|im_start|>', '<|im_end|>'), {}],
  ['llama2', folder('llama2', '<s>', '</s>'), {}],
  ['gpt2 without template', modelFolder({ 'tokenizer.json': fixture('gpt2'), 'config.json': config }), {}],
  ['demo without caches', demoFolder, { prefixCacheBytes: 0, wordCacheWords: 1024 }],
];

function folder(name: string, bos: string, eos: string): string {
  return modelFolder({ 'tokenizer.json': fixture(name), 'config.json': config, 'tokenizer_config.json': { bos_token: bos, eos_token: { content: eos }, chat_template: template } });
}

for (const [name, path, options] of models) {
  describe(name, () => {
    preprocessorContract({ runner: { describe, it }, create: () => huggingface.create({ ...huggingFaceDefaults, ...options }, fakeContext(path).context) });
  });
}

describe('through the library', () => {
  preprocessorContract({
    runner: { describe, it },
    create: () => huggingface.create({ ...huggingFaceDefaults, tokenizer: 'library' }, fakeContext(demoFolder).context),
    skip: [{ rule: 'tokenText, tokenBytes: bytes of the tokens of a text are the bytes of the text; any id is answered', reason: 'the library tells no bytes, so tokens that are part of a character have those of U+FFFD' }],
  });
});

it('the config schema is closed, with description and default on every field, and agrees with the defaults', () => {
  expect(isPlugin(huggingface)).toBe(true);
  const schema = huggingface.configSchema as { additionalProperties: boolean; properties: Record<string, { description?: string; default?: unknown }> };
  expect(schema.additionalProperties).toBe(false);
  for (const field of Object.values(schema.properties)) expect(field.description).toEqual(expect.any(String));
  expect(Object.fromEntries(Object.entries(schema.properties).map(([name, field]) => [name, field.default]))).toEqual(huggingFaceDefaults);
});
