import type { ErrorData } from '@armature/contracts';
import type { SharedMemory } from './kernels.ts';
import type { MemoryPlan } from './memory-plan.ts';
import type { SamplingSetup } from '@armature/engine-core';

/** What the thread starts with. */
export interface ThreadData {
  readonly folder: string;
  readonly plan: MemoryPlan;
  readonly memory: SharedMemory;
}

/** To the thread, in order. A step's columns are in the shared memory already. */
export type ToThread =
  | { readonly type: 'open'; readonly setup: SamplingSetup }
  | { readonly type: 'close'; readonly slot: number }
  | { readonly type: 'step' }
  | { readonly type: 'end' };

/** From the thread: one `loaded` or `failed` first, then one `stepped` per step. */
export type FromThread =
  | { readonly type: 'loaded'; readonly fingerprint: string }
  | { readonly type: 'failed'; readonly error: ErrorData }
  | { readonly type: 'stepped'; readonly error: ErrorData | undefined };

// One object each: posting the same object again allocates nothing but the message itself.
export const STEP: ToThread = { type: 'step' };
export const STEPPED: FromThread = { type: 'stepped', error: undefined };
