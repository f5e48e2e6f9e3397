import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Logger } from '@armature/contracts';
import { realClock } from '@armature/contracts/testing/real-clock';
import { scalingConnectorContract } from '@armature/contracts/testing/scaling-connector';
import { afterAll, describe, expect, it } from 'vitest';
import { ProcessConnector } from './process-connector.ts';
import type { ProcessConnectorOptions } from './process-connector.ts';
import type { WorkerState } from './worker-state.ts';
import { isEnded } from './worker-process.ts';

const root = mkdtempSync(join(tmpdir(), 'armature-process-'));
let folders = 0;
const open: ProcessConnector[] = [];
afterAll(async () => {
  for (const connector of open) await connector.close();
  rmSync(root, { recursive: true, force: true });
});

const log: Logger = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: () => undefined, child: () => log, isEnabled: () => false };
/** A worker that waits to be told to end. */
const waits = `process.on('SIGTERM', () => process.exit(0)); console.log('ready', ...process.argv.slice(1)); setInterval(() => {}, 1000)`;

function connect(path: string, script = waits, more: Partial<ProcessConnectorOptions> = {}): ProcessConnector {
  const connector = new ProcessConnector({ path, stopMs: 2_000, onClose: 'stop', command: (pool, index) => ['-e', script, `${pool}/${index}`], cwd: root, clock: realClock, log, ...more });
  open.push(connector);
  return connector;
}
const folder = (): string => join(root, String(folders++));
const state = (path: string): WorkerState => JSON.parse(readFileSync(join(path, 'm.json'), 'utf8')) as WorkerState;
const order = (revision: number, replicas: number): Parameters<ProcessConnector['apply']>[0] => ({ revision, model: 'm', pools: [{ pool: 'a', replicas }] });

async function until(what: string, check: () => boolean): Promise<void> {
  const deadline = Date.now() + 20_000;
  while (!check()) {
    if (Date.now() > deadline) throw new Error(`never: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

scalingConnectorContract({
  runner: { describe, it },
  create: async () => {
    const path = folder();
    const pids = new Set<number>();
    const count = (): number => {
      for (const model of ['m', 'n']) {
        try {
          for (const { process: { pid } } of (JSON.parse(readFileSync(join(path, `${model}.json`), 'utf8')) as WorkerState).workers) pids.add(pid);
        } catch {
          // Nothing was ordered for it yet.
        }
      }
      return pids.size;
    };
    const connector = connect(path);
    return { connector, effects: count, restart: async () => connect(path), close: () => connector.close() };
  },
});

describe('the process connector', () => {
  it('starts what is ordered, ends the highest index first, and writes down who runs', async () => {
    const path = folder();
    const connector = connect(path);
    await connector.apply(order(1, 3));
    await until('all run', () => connector.status('m').state === 'done');
    expect(state(path).workers.map(({ worker }) => worker)).toEqual(['a/0', 'a/1', 'a/2']);
    const [first, , last] = state(path).workers;
    await connector.apply(order(2, 1));
    expect(connector.status('m')).toMatchObject({ revision: 2, state: 'pending' });
    await until('one runs', () => connector.status('m').state === 'done');
    expect(state(path).workers).toEqual([first]);
    expect(isEnded(last!.process)).toBe(true);
  });

  it('another life takes up the workers of one that was killed; a planner beside it is refused', async () => {
    const path = folder();
    const killed = connect(path, waits, { onClose: 'leave' });
    await killed.apply(order(3, 2));
    await until('all run', () => killed.status('m').state === 'done');
    await killed.close();
    const before = state(path).workers;
    const again = connect(path);
    expect(await again.current('m')).toEqual(order(3, 2));
    expect(state(path).workers).toEqual(before);
    await again.apply(order(4, 0));
    await until('none runs', () => before.every(({ process: worker }) => isEnded(worker)));
    // The parent of this process lives: it could be another planner.
    writeFileSync(join(path, 'm.json'), JSON.stringify({ ...state(path), owner: { ...state(path).owner, pid: process.ppid, startTicks: 0 } }));
    await expect(connect(path).current('m')).rejects.toMatchObject({ code: 'PLANNER_STATE_TAKEN' });
  });

  it('a worker that ends starts again, ever later; one that keeps ending is the reason', async () => {
    const path = folder();
    const connector = connect(path, `console.log('cannot open the model'); process.exit(5)`);
    await connector.apply(order(1, 1));
    await until('it failed', () => connector.status('m').state === 'failed');
    expect(connector.status('m').reason).toMatch(/a\/0 has ended 3 times: .*cannot open the model/);
    await connector.apply(order(2, 0));
    await until('it is given up', () => connector.status('m').state === 'done');
  });

  it('a worker that does not end when it is told is killed', async () => {
    const path = folder();
    const connector = connect(path, `process.on('SIGTERM', () => {}); setInterval(() => {}, 1000)`, { stopMs: 300 });
    await connector.apply(order(1, 1));
    await until('it runs', () => connector.status('m').state === 'done');
    const [{ process: worker }] = state(path).workers as [WorkerState['workers'][number]];
    await connector.close();
    expect(isEnded(worker)).toBe(true);
    expect(state(path)).toMatchObject({ workers: [] });
  });

  it('a state that is not understood is not overwritten', async () => {
    const path = folder();
    mkdirSync(path, { recursive: true });
    writeFileSync(join(path, 'm.json'), '{"workers": 3');
    await expect(connect(path).current('m')).rejects.toMatchObject({ code: 'PLANNER_STATE_INVALID' });
    expect(readFileSync(join(path, 'm.json'), 'utf8')).toBe('{"workers": 3');
  });
});
