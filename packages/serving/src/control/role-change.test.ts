import { ArmatureError } from '@armature/contracts';
import type { EngineAbilities, ErrorData, PlaneMessage, PlaneStream, WorkerRole } from '@armature/contracts';
import { describe, expect, it } from 'vitest';
import { ManualClock } from '../test-support/fakes.ts';
import { RunningLegs } from '../worker/running-legs.ts';
import { answerRoleChange, parseRoleChange } from './role-change.ts';
import type { RoleHost } from './role-change.ts';

function build(roleChange: EngineAbilities['roleChange'], more: Partial<RoleHost> = {}) {
  const calls: string[] = [];
  const sent: PlaneMessage[] = [];
  let closed: ErrorData | 'normal' | undefined;
  const stream: PlaneStream = { send: (message) => sent.push(message) > 0, close: (error) => void (closed = error ?? 'normal') };
  const host: RoleHost = {
    instanceId: 'decode/1@a',
    role: 'decode',
    abilities: { roles: ['decode', 'prefill'], roleChange, firstToken: 'prefill', legs: 'sequential', kvEvents: true, maxTopLogprobs: 0 },
    legs: 3,
    drain: async (deadlineMs) => {
      calls.push(`drain ${deadlineMs}`);
      return 2;
    },
    rejoin: async (role) => {
      calls.push(`rejoin ${role}`);
      return 'decode/1@b';
    },
    changed: (role, outcome) => void calls.push(`${role} ${outcome}`),
    ...more,
  };
  return { calls, sent, stream, host, ask: (role: WorkerRole) => answerRoleChange(host, { role, deadlineMs: 50 }, stream), closed: () => closed };
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
const codeOf = (act: () => unknown): string => {
  try {
    act();
  } catch (error) {
    return ArmatureError.from(error).code;
  }
  return 'none';
};

describe('a change of role', () => {
  it('drains, joins again, and says so', async () => {
    const t = build('live');
    t.ask('prefill').closed({ code: 'PLANE_DISCONNECTED', message: 'who asked has gone' });
    await turn();
    expect(t.calls).toEqual(['drain 50', 'rejoin prefill', 'prefill done']);
    expect(t.sent).toEqual([
      { type: 'draining', instanceId: 'decode/1@a', legs: 3 },
      { type: 'done', instanceId: 'decode/1@b', role: 'prefill', moved: 2 },
    ]);
    expect(t.closed()).toBe('normal');
  });

  it('to the role it has is none', () => {
    const t = build('none');
    t.ask('decode');
    expect([t.calls, t.sent, t.closed()]).toEqual([[], [{ type: 'done', instanceId: 'decode/1@a', role: 'decode', moved: 0 }], 'normal']);
  });

  it('is refused by what the engine declares, before anything is touched', () => {
    for (const [roleChange, role, code] of [['restart', 'prefill', 'SERVING_ROLE_NEEDS_RESTART'], ['none', 'prefill', 'SERVING_ROLE_FIXED'], ['live', 'both', 'SERVING_ROLE_UNSUPPORTED']] as const) {
      const t = build(roleChange);
      expect([codeOf(() => t.ask(role)), t.calls, t.sent]).toEqual([code, [], []]);
    }
  });

  it('that fails ends with the code', async () => {
    const t = build('live', { rejoin: () => Promise.reject(new ArmatureError('SERVING_WORKER_FAILED', 'its engine failed')) });
    t.ask('prefill');
    await turn();
    expect([t.closed(), t.calls]).toEqual([{ code: 'SERVING_WORKER_FAILED', message: 'its engine failed' }, ['drain 50', 'prefill failed']]);
  });

  it('names role and deadline, or is no message', () => {
    expect(parseRoleChange({ type: 'role', role: 'both', deadlineMs: 0 })).toEqual({ role: 'both', deadlineMs: 0 });
    for (const message of [{ type: 'role', role: 'cook', deadlineMs: 0 }, { type: 'role', role: 'both' }, { type: 'role', role: 'both', deadlineMs: NaN }]) {
      expect(codeOf(() => parseRoleChange(message))).toBe('SERVING_MESSAGE_INVALID');
    }
  });
});

describe('running legs', () => {
  it('are waited for until they have ended, or up to the deadline; then they are told to move on', async () => {
    const clock = new ManualClock();
    const legs = new RunningLegs(clock);
    const told: (string | undefined)[] = [];
    const leg = (): { close(error?: ErrorData): void; send(): boolean } => ({ send: () => true, close: (error) => void told.push(error?.code) });
    const [a, b] = [leg(), leg()];
    legs.add(a, a);
    legs.add(b, b);
    let state = 'waiting';
    const wait = (deadlineMs: number): void => {
      state = 'waiting';
      void legs.idle(deadlineMs).then(() => (state = `done with ${legs.size}`));
    };
    wait(100);
    clock.advance(99);
    legs.ended(a);
    await turn();
    expect(state).toBe('waiting');
    clock.advance(1);
    await turn();
    expect([state, clock.pendingTimers]).toEqual(['done with 1', 0]);
    expect([legs.moveOn({ code: 'SERVING_WORKER_DRAINING', message: '' }), told]).toEqual([1, ['SERVING_WORKER_DRAINING']]);
    wait(100);
    legs.ended(b);
    await turn();
    expect([state, clock.pendingTimers]).toEqual(['done with 0', 0]);
  });
});
