import { describe, expect, it } from 'vitest';
import { FakeModel, speak } from '@armature/contracts/testing/fake-model';
import type { Script } from '@armature/contracts/testing/fake-model';
import { realClock } from './fake-context.test.fixture.ts';
import { withHeaders } from './routing-fields.ts';
import { serving } from './serving.test.fixture.ts';

const CHAT = { model: 'demo', messages: [{ role: 'user', content: 'hi' }] };
const model = (script: Script = speak(realClock, 'ok', 0)): FakeModel => new FakeModel('demo', script);

const EVERYTHING = {
  dp_rank: 3,
  prefill_dp_rank: 0,
  decode_worker_id: 'decode/0@1',
  backend_instance_id: 'ignored',
  prefill_worker_id: 12,
  agent_hints: { priority: 5, strict_priority: 2, osl: 400 },
  router_config_override: { overlap_score_credit: 2, prefill_load_scale: 0.5, router_temperature: 0.3, shared_cache_multiplier: 0.25, assume_kv_reuse: false, track_prefill_tokens: true },
  routing_constraints: { required_taints: ['zone=a'], preferred_taints: { 'gpu=h200': 1.5, spot: -2 } },
};

describe('routing wishes', () => {
  it('of the body reach the request', async () => {
    const demo = model();
    await serving([demo], {}, async ({ chat, complete }) => {
      await (await chat({ ...CHAT, nvext: EVERYTHING })).text();
      await (await complete({ model: 'demo', prompt: 'a', nvext: EVERYTHING })).text();
      await (await chat({ ...CHAT, nvext: { router_config_override: { overlap_score_weight: 0 } } })).text();
      await (await chat({ ...CHAT, nvext: { routing_constraints: { required_taints: [], preferred_taints: {} }, router_config_override: null } })).text();
    });
    const routing = {
      overlapCredit: 2,
      prefillLoadScale: 0.5,
      temperature: 0.3,
      sharedCacheMultiplier: 0.25,
      assumeKvReuse: false,
      trackPrefillTokens: true,
      expectedOutputTokens: 400,
      worker: 'decode/0@1',
      prefillWorker: '12',
      dpRank: 3,
      prefillDpRank: 0,
      requiredTaints: ['zone=a'],
      preferredTaints: [
        { taint: 'gpu=h200', weight: 1.5 },
        { taint: 'spot', weight: -2 },
      ],
    };
    const requests = demo.runs.map((run) => run.request);
    for (const i of [0, 1]) expect(requests[i]).toMatchObject({ priority: 5, strictPriority: 2, routing });
    expect(Object.keys(requests[0]!.routing).sort()).toEqual(Object.keys(routing).sort());
    expect(requests[2]!.routing).toEqual({ overlapCredit: 0, prefillLoadScale: 0 }); // Dynamo's older name for both
    expect(requests[3]!.routing).toEqual({});
  });

  it('of headers win over the body', async () => {
    const demo = model();
    const headers = {
      'x-tenant-id': 'acme',
      'x-dynamo-session-id': 'conversation 7',
      'x-dynamo-request-priority': '-3',
      'x-dynamo-request-strict-priority': '9',
      'x-dynamo-worker-instance-id': 'w/1',
      'x-dynamo-prefill-instance-id': 'p/1',
      'x-dynamo-dp-rank': '1',
      'x-dynamo-prefill-dp-rank': '2',
    };
    await serving([demo], {}, async ({ chat }) => {
      await (await chat({ ...CHAT, cache_salt: 'body', nvext: EVERYTHING }, headers)).text();
      await (await chat(CHAT, { ...headers, 'x-session-id': 'mine' })).text();
      await (await chat(CHAT)).text();
    });
    const requests = demo.runs.map((run) => run.request);
    const routing = { worker: 'w/1', prefillWorker: 'p/1', dpRank: 1, prefillDpRank: 2 };
    expect(requests[0]).toMatchObject({ cacheSalt: 'acme', session: 'conversation 7', priority: -3, strictPriority: 9, routing: { ...routing, overlapCredit: 2 } });
    expect(requests[1]).toMatchObject({ session: 'mine', routing });
    expect(requests[2]).toMatchObject({ cacheSalt: '', priority: 0, strictPriority: 0, routing: {} });
    expect(requests[2]).not.toHaveProperty('session');
  });

  it('that are wrong get a 400 that names the field', async () => {
    const demo = model();
    const nvext = (more: object): object => ({ ...CHAT, nvext: more });
    const override = (more: object): object => nvext({ router_config_override: more });
    const constraints = (more: object): object => nvext({ routing_constraints: more });
    const cases: readonly (readonly [object, string, string])[] = [
      ...['overlap_score_credit', 'overlap_score_weight', 'prefill_load_scale', 'router_temperature', 'shared_cache_multiplier'].flatMap((name) => [
        [override({ [name]: -0.1 }), `nvext.router_config_override.${name}`, 'invalid_value'] as const,
        [override({ [name]: '1' }), `nvext.router_config_override.${name}`, 'invalid_type'] as const,
        [override({ [name]: 1e300 }), `nvext.router_config_override.${name}`, 'invalid_value'] as const,
      ]),
      [override({ assume_kv_reuse: 1 }), 'nvext.router_config_override.assume_kv_reuse', 'invalid_type'],
      [override({ track_prefill_tokens: 'yes' }), 'nvext.router_config_override.track_prefill_tokens', 'invalid_type'],
      [nvext({ router_config_override: [] }), 'nvext.router_config_override', 'invalid_type'],
      [nvext({ agent_hints: { osl: 0 } }), 'nvext.agent_hints.osl', 'invalid_value'],
      [nvext({ agent_hints: { strict_priority: -1 } }), 'nvext.agent_hints.strict_priority', 'invalid_value'],
      [nvext({ agent_hints: { strict_priority: '1' } }), 'nvext.agent_hints.strict_priority', 'invalid_type'],
      [nvext({ dp_rank: -1 }), 'nvext.dp_rank', 'invalid_value'],
      [nvext({ prefill_dp_rank: 1.5 }), 'nvext.prefill_dp_rank', 'invalid_value'],
      [nvext({ decode_worker_id: '' }), 'nvext.decode_worker_id', 'invalid_value'],
      [nvext({ backend_instance_id: 2 ** 60 }), 'nvext.backend_instance_id', 'invalid_value'],
      [nvext({ prefill_worker_id: -1 }), 'nvext.prefill_worker_id', 'invalid_value'],
      [nvext({ prefill_worker_id: {} }), 'nvext.prefill_worker_id', 'invalid_type'],
      [constraints({ required_taints: 'zone=a' }), 'nvext.routing_constraints.required_taints', 'invalid_type'],
      [constraints({ required_taints: ['a', 1] }), 'nvext.routing_constraints.required_taints[1]', 'invalid_type'],
      [constraints({ required_taints: [''] }), 'nvext.routing_constraints.required_taints[0]', 'invalid_value'],
      [constraints({ required_taints: Array.from({ length: 33 }, String) }), 'nvext.routing_constraints.required_taints', 'invalid_value'],
      [constraints({ preferred_taints: { a: null } }), 'nvext.routing_constraints.preferred_taints.a', 'invalid_type'],
      [constraints({ preferred_taints: { a: -1e9 } }), 'nvext.routing_constraints.preferred_taints.a', 'invalid_value'],
    ];
    await serving([demo], {}, async ({ chat, post }) => {
      for (const [body, param, code] of cases) {
        const answer = await chat(body);
        expect([answer.status, ((await answer.json()) as { error: unknown }).error], JSON.stringify(body)).toMatchObject([400, { param, code }]);
      }
      // NaN cannot be written in JSON; a client that tries is told that its JSON is none.
      expect((await post('/v1/chat/completions', JSON.stringify(override({ overlap_score_credit: 7 })).replace('7', 'NaN'))).status).toBe(400);
    });
    expect(demo.runs).toHaveLength(0);
  });

  it('of headers that are wrong get a 400 that names the header', () => {
    const wishes = { cacheSalt: '', priority: 0, strictPriority: 0, routing: {} };
    const cases: readonly (readonly [string, string])[] = [
      ['x-request-priority', 'NaN'],
      ['x-request-priority', '1e3'],
      ['x-request-priority', '9999999999'],
      ['x-request-strict-priority', '-1'],
      ['x-dynamo-dp-rank', '0x1'],
      ['x-dynamo-prefill-dp-rank', '70000'],
      ['x-session-id', 'x'.repeat(257)],
      ['x-armature-worker', 'x'.repeat(257)],
      ['x-tenant-id', 'x'.repeat(513)],
    ];
    for (const [name, value] of cases) {
      expect(() => withHeaders(wishes, (asked) => (asked === name ? value : '')), name).toThrow(expect.objectContaining({ problem: expect.objectContaining({ status: 400, param: name, code: 'invalid_value' }) as object }) as Error);
    }
  });
});

it('a refusal of the queue is told with its own status, its code and when to come back', async () => {
  const refusal = (status: 429 | 503 | 529, code: string): FakeModel =>
    Object.assign(model((run) => run.end({ type: 'failed', error: { code, message: 'host 10.0.0.1 is full', retryable: true, refusal: { status, retryAfterMs: 2_300 } } })), { name: `m${status}` });
  await serving([refusal(429, 'SERVING_TENANT_QUEUE_FULL'), refusal(503, 'SERVING_QUEUE_FULL'), refusal(529, 'SERVING_QUEUE_TIMEOUT')], { overloadStatus: 503 }, async ({ chat }) => {
    for (const [status, code, type] of [[429, 'SERVING_TENANT_QUEUE_FULL', 'rate_limit_error'], [503, 'SERVING_QUEUE_FULL', 'overloaded_error'], [529, 'SERVING_QUEUE_TIMEOUT', 'overloaded_error']] as const) {
      for (const stream of [false, true]) {
        const answer = await chat({ ...CHAT, model: `m${status}`, stream });
        expect([answer.status, answer.headers.get('retry-after'), answer.headers.get('retry-after-ms'), answer.headers.get('x-should-retry')]).toEqual([status, '3', '2300', 'true']);
        const { error } = (await answer.json()) as { error: { message: string } };
        expect(error).toMatchObject({ code, type, param: null });
        expect(error.message).not.toContain('10.0.0.1');
      }
    }
  });
});
