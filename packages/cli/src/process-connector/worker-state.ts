import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { ArmatureError } from '@armature/contracts';
import type { ScalingOrder } from '@armature/contracts';
import type { ProcessIdentity } from '@armature/core';

/** What outlives the planner: the order in force, and the processes that carry it out. */
export interface WorkerState {
  /** Who keeps the file now. */
  readonly owner: ProcessIdentity;
  readonly order: ScalingOrder | undefined;
  readonly workers: readonly { readonly worker: string; readonly process: ProcessIdentity }[];
}

/** Undefined: there is none. Throws `PLANNER_STATE_INVALID`: what is not understood may hold workers that run. */
export function readState(file: string): WorkerState | undefined {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw invalid(file, (error as Error).message, error);
  }
  try {
    const state = JSON.parse(text) as WorkerState;
    const isState = typeof state.owner?.pid === 'number' && Array.isArray(state.workers) && state.workers.every((entry) => typeof entry?.worker === 'string' && typeof entry.process?.pid === 'number');
    if (!isState) throw new Error('it has another shape');
    return state;
  } catch (error) {
    throw invalid(file, (error as Error).message, error);
  }
}

function invalid(file: string, problem: string, cause: unknown): ArmatureError {
  return new ArmatureError('PLANNER_STATE_INVALID', `cannot read the workers that were started, ${file}: ${problem}`, { hint: 'end those that still run (armature workers lists them), then remove the file', cause });
}

/** Whole or not at all: a planner may be killed at any instruction. */
export function writeState(file: string, state: WorkerState): void {
  mkdirSync(dirname(file), { recursive: true });
  const draft = `${file}.${state.owner.pid}.new`;
  writeFileSync(draft, JSON.stringify(state));
  renameSync(draft, file);
}
