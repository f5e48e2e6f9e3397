import { describe, expect, it } from 'vitest';
import { checkPlanner, startsWorkers } from './planner-schema.ts';
import { plannerConfig } from './planners.ts';
import type { DeploymentConfig } from './schema.ts';

const slot = (use: string, facts?: object): object => ({ kind: '', use, path: '', ...(facts === undefined ? {} : { facts }) });

function config(more: object = {}, planner: object = {}): DeploymentConfig {
  return {
    discovery: slot('file'),
    events: slot('zmq'),
    requests: slot('tcp'),
    hardware: { fast: { costPerHour: 5, gpus: 4 } },
    models: [{ name: 'demo', workers: [{ name: 'all', role: 'both', replicas: 2, minReplicas: 1, maxReplicas: 6, startupMs: 9_000, hardware: 'fast' }, { name: 'fixed', role: 'both', replicas: 3, minReplicas: 1, startupMs: 1_000, hardware: 'default' }] }],
    planner: { connector: slot('process', { runsWorkers: true }), alone: false, models: [{ model: 'demo', intervalMs: 1_000, horizonMs: 0 }], ...planner },
    ...more,
  } as unknown as DeploymentConfig;
}

function problems(of: DeploymentConfig): (string | undefined)[] {
  const found: (string | undefined)[] = [];
  checkPlanner(of, ({ code, message }) => found.push(`${code}: ${message}`));
  return found;
}

describe('the planner section', () => {
  it('that fits has no problems', () => {
    expect(problems(config())).toEqual([]);
  });

  it.each([
    ['names a model that is not there', config({}, { models: [{ model: 'other' }] }), 'CONFIG_UNKNOWN_MODEL: there is no model "other"'],
    ['names a model twice', config({}, { models: [{ model: 'demo' }, { model: 'demo' }] }), 'CONFIG_DUPLICATE_NAME: model "demo" is planned twice'],
    ['starts processes over memory planes', config({ events: slot('memory') }), 'CONFIG_PLANE_IN_MEMORY: it starts workers as processes of their own, and events: { use: memory } ends at the border of a process'],
    ['has a pool with less room than it needs', config({ models: [{ name: 'demo', workers: [{ name: 'all', role: 'both', minReplicas: 3, maxReplicas: 2 }] }] }), 'CONFIG_INVALID_VALUE: pool "all" may have at most 2 workers and must have 3'],
  ])('%s: said', (_what, of, problem) => {
    expect(problems(of)).toEqual([problem]);
  });

  it('says which process starts workers: none here where a connector does, or where it only plans', () => {
    expect(startsWorkers(config(), 'demo')).toBe(false);
    expect(startsWorkers(config(), 'unplanned')).toBe(true);
    expect(startsWorkers(config({}, { connector: slot('virtual') }), 'demo')).toBe(true);
    expect(startsWorkers(config({}, { connector: slot('virtual'), alone: true }), 'demo')).toBe(false);
    expect(startsWorkers({ ...config(), planner: undefined } as unknown as DeploymentConfig, 'demo')).toBe(true);
  });

  it('pools have their limits, price and start-up; without maxReplicas a pool stays as large as it is. The horizon reaches beyond a start-up', () => {
    const of = config();
    const planned = plannerConfig(of, of.planner!.models[0]!);
    expect(planned.pools).toEqual([
      { pool: 'all', role: 'both', hardware: 'fast', gpusPerWorker: 4, costPerHour: 5, roleChange: 'none', minReplicas: 1, maxReplicas: 6, startupMs: 9_000, replicas: 2 },
      { pool: 'fixed', role: 'both', hardware: 'default', gpusPerWorker: 1, costPerHour: 1, roleChange: 'none', minReplicas: 1, maxReplicas: 3, startupMs: 1_000, replicas: 3 },
    ]);
    expect(planned.horizonMs).toBe(9_000);
    expect(planned.objective).toMatchObject({ goal: 'cost', ttftMs: 2_000, itlMs: 50, quantile: 0.95 });
  });
});
