import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ArmatureError } from '@armature/contracts';
import { describe, expect, it } from 'vitest';
import { writeCheckpoint } from '../testing/write-checkpoint.ts';
import { Checkpoint } from './checkpoint.ts';
import { halfToFloat, readHeader } from './safetensors.ts';

function codeOf(action: () => unknown): { code: string; message: string } {
  try {
    action();
  } catch (error) {
    expect(ArmatureError.is(error)).toBe(true);
    const { code, message, hint } = error as ArmatureError;
    expect(hint).toBeTruthy();
    return { code, message };
  }
  throw new Error('nothing was thrown');
}

const openWith = (config: Record<string, unknown>): { code: string; message: string } => codeOf(() => Checkpoint.open(writeCheckpoint({ config })));

describe('config.json', () => {
  it.each([
    ['architectures', { architectures: ['GPT2LMHeadModel'] }],
    ['hidden_act', { hidden_act: 'gelu' }],
    ['mlp_bias', { mlp_bias: true }],
    ['quantization_config', { quantization_config: { quant_method: 'awq' } }],
    ['sliding_window', { architectures: ['MistralForCausalLM'], sliding_window: 4096 }],
    ['rope_scaling.rope_type', { rope_scaling: { rope_type: 'yarn', factor: 4 } }],
    ['rope_scaling.low_freq_factor', { rope_scaling: { rope_type: 'llama3', factor: 4 } }],
    ['num_key_value_heads', { num_key_value_heads: 4 }],
    ['head_dim', { head_dim: 12 }],
    ['hidden_size', { hidden_size: 38 }],
    ['vocab_size', { vocab_size: 'many' }],
  ])('names the unsupported field %s', (field, config) => {
    const { code, message } = openWith(config);
    expect(code).toBe('ENGINE_MODEL_UNSUPPORTED');
    expect(message).toContain(field);
  });

  it('takes Mistral without a window, Qwen2 with an unused one, and rope_parameters of transformers 5', () => {
    expect(Checkpoint.open(writeCheckpoint({ config: { architectures: ['MistralForCausalLM'], sliding_window: null } })).shape.qkvBias).toBe(false);
    const qwen = { architectures: ['Qwen2ForCausalLM'], sliding_window: 32768, use_sliding_window: false };
    expect(Checkpoint.open(writeCheckpoint({ config: qwen })).shape.qkvBias).toBe(true);
    const { shape } = Checkpoint.open(writeCheckpoint({ config: { rope_theta: undefined, rope_parameters: { rope_type: 'default', rope_theta: 5e5 } } }));
    expect(shape).toMatchObject({ ropeTheta: 5e5, ropeScaling: { type: 'none' }, eosTokenIds: [3] });
  });

  it('says which file is missing or broken', () => {
    const empty = mkdtempSync(join(tmpdir(), 'armature-model-'));
    expect(codeOf(() => Checkpoint.open(empty)).code).toBe('ENGINE_MODEL_FILE_MISSING');
    writeFileSync(join(empty, 'config.json'), '{"a":');
    expect(codeOf(() => Checkpoint.open(empty)).code).toBe('ENGINE_MODEL_FILE_INVALID');
    const folder = writeCheckpoint();
    rmSync(join(folder, 'model.safetensors'));
    expect(codeOf(() => Checkpoint.open(folder))).toMatchObject({ code: 'ENGINE_MODEL_FILE_MISSING' });
    const sharded = writeCheckpoint({ shards: 2 });
    rmSync(join(sharded, 'model-00002-of-00002.safetensors'));
    expect(codeOf(() => Checkpoint.open(sharded)).code).toBe('ENGINE_MODEL_FILE_MISSING');
  });

  it('refuses an index that leaves the folder', () => {
    const folder = writeCheckpoint();
    writeFileSync(join(folder, 'model.safetensors.index.json'), JSON.stringify({ weight_map: { a: '../other.safetensors' } }));
    expect(codeOf(() => Checkpoint.open(folder)).code).toBe('ENGINE_MODEL_FILE_INVALID');
  });
});

describe('safetensors', () => {
  const write = (header: unknown, dataBytes: number, claimed?: number): string => {
    const path = join(mkdtempSync(join(tmpdir(), 'armature-model-')), 'a.safetensors');
    const text = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(claimed ?? text.length));
    writeFileSync(path, Buffer.concat([length, text, Buffer.alloc(dataBytes)]));
    return path;
  };
  const tensor = (overrides: Record<string, unknown>): Record<string, unknown> => ({ t: { dtype: 'F32', shape: [2], data_offsets: [0, 8], ...overrides } });

  it.each([
    ['a header longer than the file', write(tensor({}), 8, 1e6)],
    ['an absurd header length', write(tensor({}), 8, 2 ** 50)],
    ['a header that is no JSON', write('{{{{', 8)],
    ['offsets beyond the file', write(tensor({ data_offsets: [0, 16], shape: [4] }), 8)],
    ['reversed offsets', write(tensor({ data_offsets: [8, 0] }), 8)],
    ['negative sizes', write(tensor({ shape: [-2] }), 8)],
    ['a size that does not fit the shape', write(tensor({ shape: [3] }), 8)],
  ])('refuses %s', (_, path) => {
    expect(codeOf(() => readHeader(path)).code).toBe('ENGINE_MODEL_FILE_INVALID');
  });

  it('refuses other number types and short files', () => {
    expect(codeOf(() => readHeader(write(tensor({ dtype: 'I8' }), 8)))).toMatchObject({ code: 'ENGINE_MODEL_UNSUPPORTED' });
    const cut = write(tensor({}), 8);
    truncateSync(cut, 5);
    expect(codeOf(() => readHeader(cut)).code).toBe('ENGINE_MODEL_FILE_INVALID');
  });

  it('refuses weights that do not fit config.json', () => {
    const folder = writeCheckpoint();
    const config = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8')) as Record<string, unknown>;
    writeFileSync(join(folder, 'config.json'), JSON.stringify({ ...config, intermediate_size: 56 }));
    expect(codeOf(() => Checkpoint.open(folder)).message).toContain('mlp.gate_proj');
    writeFileSync(join(folder, 'config.json'), JSON.stringify({ ...config, tie_word_embeddings: false }));
    expect(codeOf(() => Checkpoint.open(folder)).message).toContain('lm_head');
  });

  it('reads halves exactly', () => {
    expect([0x3c00, 0xc000, 0x0001, 0x8000, 0x7bff, 0x7c00, 0x03ff].map(halfToFloat)).toEqual([1, -2, 2 ** -24, -0, 65504, Infinity, 1023 * 2 ** -24]);
  });

  it('has a fingerprint that changes with any weight and with the config', () => {
    const fingerprint = (folder: string): string => Checkpoint.open(folder).readAll(() => undefined);
    const folder = writeCheckpoint();
    const first = fingerprint(folder);
    expect(first).toMatch(/^[0-9a-f]{32}$/);
    expect(fingerprint(writeCheckpoint())).toBe(first);
    expect(fingerprint(writeCheckpoint({ config: { rope_theta: 20000 } }))).not.toBe(first);
    const file = join(folder, 'model.safetensors');
    const bytes = readFileSync(file);
    bytes[bytes.length - 1]! ^= 1;
    writeFileSync(file, bytes);
    expect(fingerprint(folder)).not.toBe(first);
  });
});
