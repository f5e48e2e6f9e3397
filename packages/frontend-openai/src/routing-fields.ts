import type { InferenceRequest, RoutingOverrides, TaintPreference } from '@armature/contracts';
import { invalidType, invalidValue, nested, optionalBoolean, optionalInteger, optionalNumber, optionalObject, optionalString } from './fields.ts';
import type { Json } from './fields.ts';
import { LIMITS } from './limits.ts';

type Writable<T> = { -readonly [K in keyof T]: T[K] };

/** The overrides of a request that has none. */
export const NO_ROUTING: RoutingOverrides = {};
const OVERRIDE = 'nvext.router_config_override';
const CONSTRAINTS = 'nvext.routing_constraints';

/** Who waits, and where the request may go, as the body says. What `withHeaders` needs of it. */
export interface RoutingWishes {
  readonly cacheSalt: string;
  readonly priority: number;
  readonly strictPriority: number;
  readonly routing: RoutingOverrides;
}

export function parsePriority(body: Json, hints: Json): number {
  const hinted = optionalInteger(hints, 'nvext.agent_hints.priority', -LIMITS.priority, LIMITS.priority);
  return optionalInteger(body, 'priority', -LIMITS.priority, LIMITS.priority) ?? hinted ?? 0;
}

export function parseStrictPriority(hints: Json): number {
  return optionalInteger(hints, 'nvext.agent_hints.strict_priority', 0, LIMITS.priority) ?? 0;
}

/** Routing wishes of `nvext`, by the names that NVIDIA Dynamo gives them. Throws a 400 that names the field at fault. */
export function parseRouting(nvext: Json, hints: Json): RoutingOverrides {
  const found: Writable<RoutingOverrides> = {};
  const set = <K extends keyof RoutingOverrides>(key: K, value: RoutingOverrides[K] | undefined): void => {
    if (value !== undefined) found[key] = value;
  };
  const override = nested(nvext, OVERRIDE);
  const weight = (name: string): number | undefined => optionalNumber(override, `${OVERRIDE}.${name}`, 0, LIMITS.routerNumber);
  // Dynamo's name before 1.5: scales the prefill term; 0 switched the credit off too.
  const older = weight('overlap_score_weight');
  set('overlapCredit', weight('overlap_score_credit') ?? (older === 0 ? 0 : undefined));
  set('prefillLoadScale', weight('prefill_load_scale') ?? older);
  set('temperature', weight('router_temperature'));
  set('sharedCacheMultiplier', weight('shared_cache_multiplier'));
  set('assumeKvReuse', optionalBoolean(override, `${OVERRIDE}.assume_kv_reuse`));
  set('trackPrefillTokens', optionalBoolean(override, `${OVERRIDE}.track_prefill_tokens`));
  set('expectedOutputTokens', optionalInteger(hints, 'nvext.agent_hints.osl', 1, Number.MAX_SAFE_INTEGER));
  set('worker', workerName(nvext, 'nvext.decode_worker_id') ?? workerName(nvext, 'nvext.backend_instance_id'));
  set('prefillWorker', workerName(nvext, 'nvext.prefill_worker_id'));
  set('dpRank', optionalInteger(nvext, 'nvext.dp_rank', 0, LIMITS.dataParallelRank));
  set('prefillDpRank', optionalInteger(nvext, 'nvext.prefill_dp_rank', 0, LIMITS.dataParallelRank));
  const constraints = nested(nvext, CONSTRAINTS);
  set('requiredTaints', requiredTaints(constraints));
  set('preferredTaints', preferredTaints(constraints));
  return found;
}

/** Instance ids are names here and numbers in Dynamo; numbers beyond 2^53 have lost digits in JSON already. */
function workerName(nvext: Json, key: string): string | undefined {
  const value = nvext[key];
  if (typeof value === 'number') {
    if (!Number.isSafeInteger(value) || value < 0) throw invalidValue(key, 'must be a string, or an integer from 0 to 2^53 - 1.');
    return String(value);
  }
  const name = optionalString(nvext, key, LIMITS.workerName);
  if (name === '') throw invalidValue(key, 'must not be an empty string.');
  return name;
}

function requiredTaints(constraints: Json): readonly string[] | undefined {
  const key = `${CONSTRAINTS}.required_taints`;
  const value = constraints[key];
  if (value === undefined || value === null) return undefined;
  if (!Array.isArray(value)) throw invalidType(key, 'an array of strings', value);
  if (value.length > LIMITS.taints) throw invalidValue(key, `must have at most ${LIMITS.taints} entries, got ${value.length}.`);
  for (let i = 0; i < value.length; i++) checkTaint(value[i], `${key}[${i}]`);
  return value.length === 0 ? undefined : (value as readonly string[]);
}

function preferredTaints(constraints: Json): readonly TaintPreference[] | undefined {
  const key = `${CONSTRAINTS}.preferred_taints`;
  const value = optionalObject(constraints, key);
  if (value === undefined) return undefined;
  const taints = Object.keys(value);
  if (taints.length > LIMITS.taints) throw invalidValue(key, `must have at most ${LIMITS.taints} entries, got ${taints.length}.`);
  const preferences = taints.map((taint) => {
    checkTaint(taint, key);
    const param = `${key}.${taint}`;
    const weight = optionalNumber({ [param]: value[taint] }, param, -LIMITS.taintWeight, LIMITS.taintWeight);
    if (weight === undefined) throw invalidType(param, 'a number', value[taint]);
    return { taint, weight };
  });
  return preferences.length === 0 ? undefined : preferences;
}

function checkTaint(value: unknown, param: string): void {
  if (typeof value !== 'string') throw invalidType(param, 'a string', value);
  if (value === '' || value.length > LIMITS.taintLength) throw invalidValue(param, `must have 1 to ${LIMITS.taintLength} characters.`);
}

/** Header of each wish, ours first. Its first name is the one that messages use. */
const HEADERS = {
  tenant: ['x-tenant-id'],
  session: ['x-session-id', 'x-dynamo-session-id'],
  priority: ['x-request-priority', 'x-dynamo-request-priority'],
  strictPriority: ['x-request-strict-priority', 'x-dynamo-request-strict-priority'],
  worker: ['x-armature-worker', 'x-dynamo-worker-instance-id'],
  prefillWorker: ['x-armature-prefill-worker', 'x-dynamo-prefill-instance-id'],
  dpRank: ['x-dynamo-dp-rank'],
  prefillDpRank: ['x-dynamo-prefill-dp-rank'],
} as const;

type Header = (name: string) => string;
type Wishes = Pick<InferenceRequest, 'cacheSalt' | 'priority' | 'strictPriority' | 'session' | 'routing'>;

/** Header over body, as in Dynamo. An empty header is none. Throws a 400 that names the header at fault. */
export function withHeaders(wishes: RoutingWishes, header: Header): Wishes {
  const session = text(header, HEADERS.session, LIMITS.session);
  const worker = text(header, HEADERS.worker, LIMITS.workerName);
  const prefillWorker = text(header, HEADERS.prefillWorker, LIMITS.workerName);
  const dpRank = integer(header, HEADERS.dpRank, 0, LIMITS.dataParallelRank);
  const prefillDpRank = integer(header, HEADERS.prefillDpRank, 0, LIMITS.dataParallelRank);
  const isPlain = worker === undefined && prefillWorker === undefined && dpRank === undefined && prefillDpRank === undefined;
  return {
    cacheSalt: text(header, HEADERS.tenant, LIMITS.cacheSalt) ?? wishes.cacheSalt,
    priority: integer(header, HEADERS.priority, -LIMITS.priority, LIMITS.priority) ?? wishes.priority,
    strictPriority: integer(header, HEADERS.strictPriority, 0, LIMITS.priority) ?? wishes.strictPriority,
    ...(session === undefined ? {} : { session }),
    routing: isPlain
      ? wishes.routing
      : {
          ...wishes.routing,
          ...(worker === undefined ? {} : { worker }),
          ...(prefillWorker === undefined ? {} : { prefillWorker }),
          ...(dpRank === undefined ? {} : { dpRank }),
          ...(prefillDpRank === undefined ? {} : { prefillDpRank }),
        },
  };
}

function first(header: Header, names: readonly string[]): string {
  for (const name of names) {
    const value = header(name);
    if (value !== '') return value;
  }
  return '';
}

function text(header: Header, names: readonly string[], maxLength: number): string | undefined {
  const value = first(header, names);
  if (value.length > maxLength) throw invalidValue(names[0]!, `must have at most ${maxLength} characters.`);
  return value === '' ? undefined : value;
}

function integer(header: Header, names: readonly string[], min: number, max: number): number | undefined {
  const value = first(header, names);
  if (value === '') return undefined;
  const number = Number(value);
  if (!/^-?\d{1,16}$/.test(value) || number < min || number > max) throw invalidValue(names[0]!, `must be an integer between ${min} and ${max}.`);
  return number;
}
