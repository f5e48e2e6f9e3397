import { join } from 'node:path';
import { ArmatureError } from '@armature/contracts';
import type { Clock, Logger, ScalingConnector, ScalingOrder, ScalingStatus } from '@armature/contracts';
import { processIdentity } from '@armature/core';
import { readState, writeState } from './worker-state.ts';
import { isEnded, WorkerProcess } from './worker-process.ts';

export interface ProcessConnectorOptions {
  /** Folder of the state and the logs. */
  readonly path: string;
  readonly stopMs: number;
  readonly onClose: 'stop' | 'leave';
  /** Command line, after node, of the worker `POOL/INDEX`. */
  readonly command: (pool: string, index: number) => readonly string[];
  readonly cwd: string;
  readonly clock: Clock;
  readonly log: Logger;
}

interface Model {
  readonly file: string;
  order: ScalingOrder | undefined;
  readonly workers: Map<string, WorkerProcess>;
}

/** Without a drain before it: the host gives a close ten seconds. */
const CLOSE_MS = 7_000;
/** From SIGKILL until a process is gone. */
const KILL_MS = 1_000;
const POLL_MS = 50;
/** A worker that ended so often without running well is told as the reason. */
const FAILED_ENDS = 3;

/**
 * Starts and stops the workers of this host, each a process of its own (`armature serve --only workers.POOL/INDEX`). Order and processes are written
 * down before they are acted on: a connector that was killed takes up its workers again.
 */
export class ProcessConnector implements ScalingConnector {
  readonly #options: ProcessConnectorOptions;
  readonly #models: Map<string, Model>;
  #isClosed = false;

  constructor(options: ProcessConnectorOptions) {
    this.#options = options;
    this.#models = new Map();
  }

  async apply(order: ScalingOrder): Promise<void> {
    if (this.#isClosed) throw new ArmatureError('PLANNER_CONNECTOR_CLOSED', 'the process connector was closed', { hint: 'the planner ends' });
    const model = this.#open(order.model);
    if (model.order !== undefined && order.revision <= model.order.revision) return;
    model.order = order;
    this.#save(model);
    this.#reconcile(model);
  }

  status(name: string): ScalingStatus {
    const model = this.#models.get(name);
    if (model?.order === undefined) return { revision: 0, state: 'unknown' };
    const { revision } = model.order;
    const workers = [...model.workers.values()];
    const failing = workers.filter(({ ends }) => ends >= FAILED_ENDS);
    if (failing.length > 0) return { revision, state: 'failed', reason: failing.map(({ worker, ends, lastWords }) => `${worker} has ended ${ends} times: ${lastWords}`).join('; ') };
    const isRunning = workers.every(({ process, isStopping }) => process !== undefined && !isStopping) && workers.length === wantedOf(model.order).length;
    return { revision, state: isRunning ? 'done' : 'pending' };
  }

  async current(name: string): Promise<ScalingOrder | undefined> {
    return this.#open(name).order;
  }

  /** Ends the workers, the highest index first told; or leaves them to the next life. What has not ended by the deadline is killed by `close`. */
  async drain(deadlineMs: number): Promise<void> {
    this.#isClosed = true;
    if (this.#options.onClose === 'leave') return;
    for (const worker of this.#all().reverse()) worker.stop();
    await this.#gone(deadlineMs);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    const { stopMs, onClose } = this.#options;
    if (onClose === 'stop') {
      await this.drain(Math.min(stopMs, CLOSE_MS));
      for (const worker of this.#all()) worker.kill();
      await this.#gone(KILL_MS);
      for (const model of this.#models.values()) model.order = undefined;
    }
    for (const model of this.#models.values()) {
      for (const worker of model.workers.values()) worker.leave();
      this.#save(model);
    }
    this.#models.clear();
  }

  #all(): WorkerProcess[] {
    return [...this.#models.values()].flatMap((model) => [...model.workers.values()]);
  }

  async #gone(deadlineMs: number): Promise<void> {
    const { clock } = this.#options;
    const untilMs = clock.nowMs() + deadlineMs;
    while (this.#all().some(({ process }) => process !== undefined) && clock.nowMs() < untilMs) await clock.sleep(POLL_MS);
  }

  /** Takes up what an earlier life has left. Throws `PLANNER_STATE_TAKEN`, `PLANNER_STATE_INVALID`. */
  #open(name: string): Model {
    const known = this.#models.get(name);
    if (known !== undefined) return known;
    const model: Model = { file: join(this.#options.path, `${encodeURIComponent(name)}.json`), order: undefined, workers: new Map() };
    const state = readState(model.file);
    if (state !== undefined) {
      const me = processIdentity();
      if (state.owner.pid !== me.pid && !isEnded(state.owner)) throw new ArmatureError('PLANNER_STATE_TAKEN', `process ${state.owner.pid} keeps the workers of model "${name}" (${model.file})`, { hint: 'one planner per model and host; end the other one, or give this one another path', retryable: true });
      model.order = state.order;
      for (const { worker, process } of state.workers) if (!isEnded(process)) this.#worker(model, worker).adopt(process);
      if (model.workers.size > 0) this.#options.log.info('workers of an earlier life taken up', { model: name, workers: [...model.workers.keys()] });
    }
    this.#models.set(name, model);
    this.#save(model);
    if (model.order !== undefined) this.#reconcile(model);
    return model;
  }

  /** What is too many is told to end, from the highest index on; what is missing starts. */
  #reconcile(model: Model): void {
    if (model.order === undefined || this.#isClosed) return;
    const wanted = new Set(wantedOf(model.order));
    const surplus = [...model.workers.values()].filter(({ worker }) => !wanted.has(worker));
    for (const worker of surplus.sort((a, b) => indexOf(b.worker) - indexOf(a.worker))) worker.stop();
    for (const name of wanted) if (!model.workers.has(name)) this.#worker(model, name).start();
  }

  #worker(model: Model, name: string): WorkerProcess {
    const { path, cwd, stopMs, clock, command } = this.#options;
    const pool = name.slice(0, name.lastIndexOf('/'));
    const worker = new WorkerProcess({
      worker: name,
      args: command(pool, indexOf(name)),
      cwd,
      logFile: join(path, 'logs', `${name.replaceAll('/', '-')}.log`),
      stopMs,
      clock,
      changed: () => this.#changed(model, worker),
    });
    model.workers.set(name, worker);
    return worker;
  }

  #changed(model: Model, worker: WorkerProcess): void {
    if (worker.process === undefined && worker.isStopping) {
      model.workers.delete(worker.worker);
      this.#reconcile(model); // an order may want it again
    } else if (worker.process === undefined) this.#options.log.warn('worker process ended', { worker: worker.worker, ends: worker.ends, lastWords: worker.lastWords });
    this.#save(model);
  }

  #save(model: Model): void {
    const workers = [...model.workers.values()].flatMap(({ worker, process }) => (process === undefined ? [] : [{ worker, process }]));
    writeState(model.file, { owner: processIdentity(), order: model.order, workers });
  }
}

function wantedOf({ pools }: ScalingOrder): string[] {
  return pools.flatMap(({ pool, replicas }) => Array.from({ length: replicas }, (_, index) => `${pool}/${index}`));
}

function indexOf(worker: string): number {
  return Number(worker.slice(worker.lastIndexOf('/') + 1));
}
