import { FinishCode } from '@armature/contracts';
import type { EngineRequest } from '@armature/contracts';
import { describe, expect, it } from 'vitest';
import { contextParams, decodeCompletion, decodeParams, encodeCompletion, encodeParams, generationParams } from './index.ts';

const request: EngineRequest = {
  id: 'r',
  leg: 'prefill',
  tokenIds: Int32Array.of(5, 6, 7),
  promptTokens: 3,
  sequenceHashes: new Int32Array(0),
  cacheSalt: '',
  sampling: {
    temperature: 0.5,
    topP: 0.9,
    topK: 40,
    minP: 0,
    seedLo: -1,
    seedHi: 1,
    frequencyPenalty: 0,
    presencePenalty: 0.5,
    repetitionPenalty: 1,
    biasTokenIds: new Int32Array(0),
    biasValues: new Float32Array(0),
    topLogprobs: 2,
  },
  stop: { maxTokens: 64, minTokens: 0, stopTokenIds: Int32Array.of(2), ignoreEos: false },
  choices: 1,
  firstTokens: undefined,
  priority: 0,
  kvSource: undefined,
  leaseTtlMs: 1000,
};

// Shape of a context server's answer as documented for trtllm-serve 1.x; values invented.
const answer = {
  id: 'cmpl-1',
  choices: [
    {
      index: 0,
      text: ' Paris',
      finish_reason: 'length',
      disaggregated_params: {
        request_type: 'context_only',
        first_gen_tokens: [3681],
        ctx_request_id: 17,
        encoded_opaque_state: 'AAECAw==',
        draft_tokens: null,
        first_gen_log_probs: [-0.25],
        ctx_dp_rank: 0,
        schedule_style: 'context_first',
        something_new: { nested: [1, 2] },
      },
    },
  ],
  prompt_token_ids: [5, 6, 7],
};

describe('TensorRT-LLM codec', () => {
  it('a context request: not streamed, one token, tokens in', () => {
    expect(encodeCompletion('m', request, contextParams(99))).toEqual({
      model: 'm',
      prompt: [5, 6, 7],
      max_tokens: 1,
      stream: false,
      n: 1,
      temperature: 0.5,
      top_p: 0.9,
      top_k: 40,
      seed: 0x1_ffff_ffff,
      presence_penalty: 0.5,
      logprobs: 2,
      stop_token_ids: [2],
      disaggregated_params: { request_type: 'context_only', disagg_request_id: 99 },
    });
  });

  it('context answer → generation request, opaque state and unknown fields verbatim', () => {
    const result = decodeCompletion(answer);
    expect(result).toMatchObject({ text: ' Paris', finish: FinishCode.Length, isComplete: false, promptTokenIds: [5, 6, 7] });
    if (result.params === undefined) throw new Error('no params');
    const { draft_tokens: _nothing, ...sent } = answer.choices[0]?.disaggregated_params ?? { draft_tokens: null };
    const body = encodeCompletion('m', { ...request, leg: 'decode' }, generationParams(result.params));
    expect(body['disaggregated_params']).toEqual({ ...sent, request_type: 'generation_only' });
    expect(body).toMatchObject({ stream: true, max_tokens: 64 });
  });

  it('keeps the spelling of the opaque state', () => {
    for (const spelling of ['encoded_opaque_state', 'opaque_state']) {
      const wire = { request_type: 'generation_only', ctx_request_id: 'a-b', [spelling]: 'x' };
      expect(encodeParams(decodeParams(wire))).toEqual(wire);
    }
  });

  it('both spellings at once are both kept', () => {
    const wire = { request_type: 'generation_only', encoded_opaque_state: 'x', opaque_state: 'y' };
    expect(encodeParams(decodeParams(wire))).toEqual(wire);
  });

  it('a migrated request asks for what is left, with salt and bias; a context leg for one choice', () => {
    const migrated = {
      ...request,
      tokenIds: Int32Array.of(5, 6, 7, 8, 9),
      cacheSalt: 'tenant',
      choices: 2,
      sampling: { ...request.sampling, biasTokenIds: Int32Array.of(4), biasValues: Float32Array.of(-100) },
      stop: { ...request.stop, minTokens: 10 },
    };
    expect(encodeCompletion('m', migrated, undefined)).toMatchObject({ max_tokens: 62, min_tokens: 8, cache_salt: 'tenant', logit_bias: { 4: -100 }, n: 2, stream_options: { include_usage: true } });
    const context = encodeCompletion('m', migrated, contextParams());
    expect(context).toMatchObject({ max_tokens: 1, n: 1, stream: false });
    expect(context).not.toHaveProperty('min_tokens');
  });

  it('an answer that failed is an error, not an answer', () => {
    for (const reason of ['error', 'cancelled']) {
      expect(() => decodeCompletion({ choices: [{ text: '', finish_reason: reason }] })).toThrow(expect.objectContaining({ code: 'TRTLLM_FAILED', retryable: true }) as Error);
    }
  });

  it('an answer that ended on the context server needs no generation leg', () => {
    const ended = structuredClone(answer) as { choices: { finish_reason: string }[] };
    if (ended.choices[0] !== undefined) ended.choices[0].finish_reason = 'stop';
    expect(decodeCompletion(ended)).toMatchObject({ isComplete: true, finish: FinishCode.Stop });
  });

  it.each([
    ['null', null, 'TRTLLM_PARAMS_INVALID'],
    ['no type', {}, 'TRTLLM_PARAMS_INVALID'],
    ['unknown type', { request_type: 'both' }, 'TRTLLM_PARAMS_INVALID'],
    ['tokens as text', { request_type: 'context_only', first_gen_tokens: '1' }, 'TRTLLM_PARAMS_INVALID'],
    ['state as number', { request_type: 'context_only', encoded_opaque_state: 5, opaque_state: 5 }, 'TRTLLM_PARAMS_INVALID'],
  ])('refuses params: %s', (_what, wire, code) => {
    expect(() => decodeParams(wire)).toThrow(expect.objectContaining({ code }) as Error);
  });

  it('refuses to go on without a handle', () => {
    expect(() => generationParams(contextParams())).toThrow(expect.objectContaining({ code: 'TRTLLM_HANDOVER_INCOMPLETE' }) as Error);
    expect(() => decodeCompletion({ choices: [] })).toThrow(expect.objectContaining({ code: 'TRTLLM_ANSWER_INVALID' }) as Error);
  });
});
