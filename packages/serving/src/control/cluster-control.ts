import { ArmatureError } from '@armature/contracts';
import type { Clock, Discovery, DiscoveryWatcher, EngineLoad, ErrorData, PlaneMessage, Registration, RequestPlane, WorkerRecord, WorkerRole } from '@armature/contracts';
import { Method } from '../messages.ts';
import { callUnary } from '../worker/unary.ts';
import { UNWELL_PREFIX } from './unwell.ts';
import type { UnwellWorker } from './unwell.ts';

const LOCK_TTL_MS = 5_000;
const LOCK_RETRY_MS = 100;
const LOAD_TIMEOUT_MS = 1_000;
/** Beyond the time for running legs: for those that are told to move on, and for discovery. */
const CHANGE_GRACE_MS = 15_000;

export interface ClusterControlOptions {
  readonly discovery: Discovery;
  readonly requests: RequestPlane;
  readonly clock: Clock;
  /** How many live workers must be left to take prefill or decode legs of a model. */
  readonly minimum: (model: string, leg: 'prefill' | 'decode') => number;
}

export interface RoleChangeRequest {
  readonly model: string;
  /** `POOL/INDEX`. */
  readonly worker: string;
  readonly role: WorkerRole;
  /** For running legs to end by themselves; the others move on. */
  readonly drainMs: number;
  /** For other changes of the same model to end. */
  readonly waitMs: number;
  readonly draining?: (legs: number) => void;
}

export interface RoleChanged {
  /** Of the life that has the role now. */
  readonly instanceId: string;
  /** Legs that were told to move on. */
  readonly moved: number;
}

/** The live workers of a cluster, and orders to them. Needs discovery and the request plane, nothing else: for commands, and for the planner. */
export class ClusterControl {
  readonly #options: ClusterControlOptions;

  constructor(options: ClusterControlOptions) {
    this.#options = options;
  }

  /** Workers that are alive now, of one model or of all, by pool and index. */
  async list(model?: string): Promise<readonly WorkerRecord[]> {
    return this.#read<WorkerRecord>(model === undefined ? 'workers/' : `workers/${model}/`);
  }

  /** Workers that live and take no requests because their engine failed. They come back by themselves. */
  unwell(model?: string): Promise<readonly UnwellWorker[]> {
    return this.#read<UnwellWorker>(model === undefined ? UNWELL_PREFIX : `${UNWELL_PREFIX}${model}/`);
  }

  async #read<T extends Pick<WorkerRecord, 'model' | 'pool' | 'index'>>(prefix: string): Promise<readonly T[]> {
    const found: T[] = [];
    const watch = await this.#options.discovery.watch(prefix, { put: (entry) => void found.push(entry.value as unknown as T), removed: () => undefined });
    watch.close();
    return found.sort((a, b) => a.model.localeCompare(b.model) || a.pool.localeCompare(b.pool) || a.index - b.index);
  }

  /** Follows them. Keys are `workers/MODEL/POOL/INDEX@INCARNATION`, values worker records. */
  watch(watcher: DiscoveryWatcher, model?: string): Promise<{ close(): void }> {
    return this.#options.discovery.watch(model === undefined ? 'workers/' : `workers/${model}/`, watcher);
  }

  /** Undefined: no answer within a second. */
  load(worker: WorkerRecord): Promise<EngineLoad | undefined> {
    const open = { method: Method.Probe, message: { type: 'probe' }, deadlineMs: LOAD_TIMEOUT_MS } as const;
    return new Promise((resolve) => callUnary(this.#options.requests, worker.address, open, (answer) => resolve(answer?.['load'] as EngineLoad | undefined)));
  }

  /**
   * Gives a running worker another role; resolves when it takes legs again. One change of a model at a time, over all who ask: the minimum
   * counts workers that are in discovery while nobody else takes one out.
   * Throws `CONTROL_WORKER_UNKNOWN`, `CONTROL_ROLE_MINIMUM`, `CONTROL_BUSY`, and what the worker answers (`SERVING_ROLE_…`).
   */
  async changeRole(request: RoleChangeRequest): Promise<RoleChanged> {
    const lock = await this.#lock(request);
    try {
      const workers = await this.list(request.model);
      const worker = workers.find(({ pool, index }) => `${pool}/${index}` === request.worker);
      if (worker === undefined) {
        throw new ArmatureError('CONTROL_WORKER_UNKNOWN', `model "${request.model}" has no live worker ${request.worker}`, {
          hint: `it has: ${workers.map(({ pool, index }) => `${pool}/${index}`).join(', ') || 'none'}`,
        });
      }
      this.#checkMinimum(worker, request.role, workers);
      return await this.#order(worker, request);
    } finally {
      // A lock that could not be given back ends by its time to live.
      await lock.close().catch(() => undefined);
    }
  }

  #checkMinimum(worker: WorkerRecord, role: WorkerRole, workers: readonly WorkerRecord[]): void {
    for (const leg of ['prefill', 'decode'] as const) {
      if (!takes(worker.role, leg) || takes(role, leg)) continue;
      const left = workers.filter((other) => other.instanceId !== worker.instanceId && takes(other.role, leg)).length;
      const minimum = this.#options.minimum(worker.model, leg);
      if (left >= minimum) continue;
      throw new ArmatureError('CONTROL_ROLE_MINIMUM', `${left} workers of model "${worker.model}" would be left for ${leg}, and ${minimum} must be`, {
        hint: `start another ${leg} worker first, or lower minReplicas of its pools`,
        details: { left, minimum, leg },
      });
    }
  }

  /** A key in discovery that one owner holds at a time, as long as it lives. */
  async #lock({ model, waitMs }: RoleChangeRequest): Promise<Registration> {
    const { discovery, clock } = this.#options;
    const untilMs = clock.nowMs() + waitMs;
    for (;;) {
      try {
        return await discovery.register(`control/${model}/role`, { type: 'lock' }, { ttlMs: LOCK_TTL_MS });
      } catch (error) {
        if (!ArmatureError.is(error) || error.code !== 'DISCOVERY_KEY_TAKEN') throw error;
        if (clock.nowMs() >= untilMs) {
          throw new ArmatureError('CONTROL_BUSY', `another change of a role of model "${model}" is under way`, { hint: 'try again when it has ended', retryable: true });
        }
        await clock.sleep(LOCK_RETRY_MS);
      }
    }
  }

  #order(worker: WorkerRecord, { role, drainMs, draining }: RoleChangeRequest): Promise<RoleChanged> {
    const open = { method: Method.Role, message: { type: 'role', role, deadlineMs: drainMs }, deadlineMs: drainMs + CHANGE_GRACE_MS } as const;
    return new Promise((resolve, reject) => {
      let done: RoleChanged | undefined;
      this.#options.requests.open(worker.address, open, {
        message: (message: PlaneMessage) => {
          if (message.type === 'draining') draining?.(Number(message['legs']));
          if (message.type === 'done') done = { instanceId: String(message['instanceId']), moved: Number(message['moved']) };
        },
        closed: (error: ErrorData | undefined) => {
          if (done !== undefined) resolve(done);
          else reject(error === undefined ? new ArmatureError('CONTROL_NO_ANSWER', `worker ${worker.instanceId} ended the change of its role without a word`, { hint: 'it runs another version' }) : ArmatureError.fromData(error));
        },
      });
    });
  }
}

function takes(role: WorkerRole, leg: 'prefill' | 'decode'): boolean {
  return role === 'both' || role === leg;
}
