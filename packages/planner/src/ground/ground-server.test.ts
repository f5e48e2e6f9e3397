import { describe, expect, it } from 'vitest';
import { testRandom } from '../random.test.support.ts';
import { GroundServer } from './ground-server.ts';

interface Answer {
  readonly observation: readonly number[] | readonly { readonly name: string; readonly low: number; readonly high: number }[];
  readonly action: readonly unknown[];
  readonly steps: readonly ({ readonly observation: readonly number[]; readonly reward: number; readonly truncated: boolean; readonly info: Record<string, unknown> } | null)[];
  readonly count: number;
  readonly error?: { readonly code: string; readonly message: string };
}

const talk = (server: GroundServer, request: unknown): Answer => JSON.parse(server.answer(typeof request === 'string' ? request : JSON.stringify(request))) as Answer;

function episode(seed: number, action: readonly number[]): string[] {
  const server = new GroundServer(testRandom(1));
  talk(server, { op: 'make', count: 2, scenarios: 'drawn', hours: 0.1 });
  for (const env of [0, 1]) talk(server, { op: 'reset', env, seed: seed + env });
  const lines = [];
  for (let i = 0; i < 24; i++) lines.push(server.answer(JSON.stringify({ op: 'step', actions: [action, i % 2 === 0 ? action : null] })));
  return lines;
}

describe('GroundServer', () => {
  it('tells its spaces, with bounds', () => {
    const { observation, action } = talk(new GroundServer(testRandom(1)), { op: 'hello' });
    expect(observation.length).toBe(18);
    expect(action.length).toBe(2);
    for (const { low, high } of observation as readonly { low: number; high: number }[]) expect(low).toBeLessThan(high);
  });

  it('plays the same episode for the same seed and actions, and another one for others', () => {
    const first = episode(5, [0.1, -0.2]);
    expect(episode(5, [0.1, -0.2])).toEqual(first);
    expect(episode(6, [0.1, -0.2])).not.toEqual(first);
    expect(episode(5, [0.9, -0.2])).not.toEqual(first);
    const last = JSON.parse(first[23]) as Answer;
    expect(last.steps[0]?.truncated).toBe(true);
    expect(last.steps[0]?.info['episode']).toMatchObject({ arrived: expect.any(Number) as number });
    expect(last.steps[1]).toBeNull();
  });

  it.each<[string, unknown]>([
    ['no JSON', '{"op":'],
    ['an unknown op', { op: 'jump' }],
    ['a step before make', { op: 'step', actions: [[0, 0]] }],
    ['an environment that is not there', { op: 'reset', env: 3, seed: 1 }],
    ['too many environments', { op: 'make', count: 1e6 }],
    ['other scenarios', { op: 'make', scenarios: 'easy' }],
    ['endless episodes', { op: 'make', hours: 'all' }],
    ['null', 'null'],
  ])('answers %s with an error, and goes on', (_, request) => {
    const server = new GroundServer(testRandom(1));
    talk(server, { op: 'make', count: 1, hours: 0.1 });
    if (JSON.stringify(request).includes('step')) expect(talk(new GroundServer(testRandom(1)), request).error?.code).toBe('PLANNER_GROUND_INVALID');
    else expect(talk(server, request).error?.code).toBe('PLANNER_GROUND_INVALID');
    expect(talk(server, { op: 'reset', env: 0, seed: 1 }).observation).toHaveLength(18);
  });

  it('refuses an action that is none', () => {
    const server = new GroundServer(testRandom(1));
    talk(server, { op: 'make', count: 1, hours: 0.1 });
    expect(talk(server, { op: 'step', actions: [[0, 0]] }).error?.message).toContain('begins with a reset');
    talk(server, { op: 'reset', env: 0, seed: 1 });
    for (const action of [[0], [0, 0, 0], [0, 'x'], 'x', { a: 1 }]) expect(talk(server, { op: 'step', actions: [action] }).error?.code).toBe('PLANNER_GROUND_INVALID');
    expect(talk(server, { op: 'step', actions: [[0, 0]] }).error).toBeUndefined();
  });
});
