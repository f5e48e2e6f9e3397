import { ArmatureError } from '@armature/contracts';
import { loadConfig } from '@armature/core';
import { parseDocument } from 'yaml';
import type { Document } from 'yaml';
import { configOptions } from './boot.ts';

/** A part of a deployment that runs as a process of its own. */
export type Part = { readonly type: 'frontend' } | { readonly type: 'planner' } | { readonly type: 'workers'; readonly pool: string; readonly index: number | undefined };

export interface PartOptions {
  /** Replaces the port of the admin listener: several processes of one host cannot share it. */
  readonly adminPort?: number;
  /** Several frontend processes listen on one port. */
  readonly sharePort?: boolean;
}

interface Pool {
  readonly name: string;
  readonly replicas: number;
  /** Most workers that a planner may give it. A pool of no replicas and without a limit has every worker that somebody starts. */
  readonly maxReplicas?: number;
  /** Its workers are started by the planner's connector. */
  readonly isPlanned?: boolean;
  readonly firstIndex: number;
}

/** What a file describes, as far as its division into processes is concerned. */
export interface DeploymentParts {
  readonly hasFrontend: boolean;
  readonly hasPlanner: boolean;
  readonly pools: readonly Pool[];
}

const PART = /^(?:(frontend)|(planner)|workers\.([A-Za-z0-9][A-Za-z0-9._-]*?)(?:\/(\d+))?)$/;

/** Throws `USAGE_PART_UNKNOWN`. */
export function parsePart(text: string): Part {
  const match = PART.exec(text);
  if (match === null) {
    throw new ArmatureError('USAGE_PART_UNKNOWN', `there is no part "${text}" of a deployment`, { hint: 'write --only frontend, planner, workers.NAME or workers.NAME/INDEX' });
  }
  if (match[1] !== undefined) return { type: 'frontend' };
  if (match[2] !== undefined) return { type: 'planner' };
  return { type: 'workers', pool: match[3] as string, index: match[4] === undefined ? undefined : Number(match[4]) };
}

export function partName(part: Part): string {
  return part.type === 'workers' ? `${part.pool}${part.index === undefined ? '' : `/${part.index}`}` : part.type;
}

/**
 * Checks the whole file, and that its parts could find each other from processes of their own. Throws `CONFIG_INVALID`, and
 * `CONFIG_PLANE_IN_MEMORY` for planes that end at the border of a process.
 */
export async function partsOf(file: string): Promise<DeploymentParts> {
  const { graph } = await loadConfig(await configOptions(file));
  const config = graph.masked() as unknown as EffectiveFile;
  const isBridged = config.requests.use === 'tcp' && (config.requests.config?.connect?.length ?? 0) > 0;
  const planes = { requests: config.requests.use, discovery: isBridged ? 'bridged' : config.discovery.use, events: isBridged ? 'bridged' : config.events.use };
  for (const [plane, use] of Object.entries(planes)) {
    if (use !== 'memory') continue;
    throw new ArmatureError('CONFIG_PLANE_IN_MEMORY', `${file}: ${plane}: { use: memory } ends at the border of a process, so that its parts would not find each other`, {
      hint: { requests: 'use requests: { use: tcp }', discovery: 'use discovery: { use: file } on one host, etcd on several', events: 'use events: { use: zmq } or nats' }[plane] ?? '',
    });
  }
  const planned = new Set(config.planner?.connector.use === 'process' ? config.planner.models.map(({ model }) => model) : []);
  const pools = config.models.flatMap((model) => model.workers.map(({ name, replicas, maxReplicas = replicas === 0 ? Infinity : replicas, firstIndex }) => ({ name, replicas, maxReplicas, firstIndex, isPlanned: planned.has(model.name) })));
  return { hasFrontend: config.frontend !== undefined, hasPlanner: config.planner !== undefined, pools };
}

interface EffectiveFile {
  readonly requests: { readonly use: string; readonly config?: { readonly connect?: readonly string[] } };
  readonly discovery: { readonly use: string };
  readonly events: { readonly use: string };
  readonly frontend?: unknown;
  readonly planner?: { readonly connector: { readonly use: string }; readonly models: readonly { readonly model: string }[] };
  readonly models: readonly { readonly name: string; readonly workers: readonly Pool[] }[];
}

/** The file with only that part in it. `parts` is what `partsOf` said of it. Throws `USAGE_PART_UNKNOWN` when it has no such part. */
export function selectPart(text: string, part: Part, parts: DeploymentParts, options: PartOptions = {}): string {
  const document = parseDocument(text);
  const has = part.type === 'frontend' ? parts.hasFrontend : part.type === 'planner' ? parts.hasPlanner : parts.pools.some((pool) => pool.name === part.pool && holds(pool, part.index));
  if (!has) throw new ArmatureError('USAGE_PART_UNKNOWN', `the file has no part "${partName(part)}"`, { hint: `it has: ${listOf(parts).join(', ') || 'nothing'}` });
  if (part.type !== 'frontend') document.delete('frontend');
  // Reports go on where the planner does not run.
  if (parts.hasPlanner && !document.has('telemetry')) document.set('telemetry', document.createNode({}));
  if (part.type === 'planner') document.setIn(['planner', 'alone'], true);
  else document.delete('planner');
  if (options.adminPort !== undefined && document.has('admin')) document.setIn(['admin', 'port'], options.adminPort);
  if (part.type === 'frontend' && options.sharePort === true) document.setIn(['frontend', 'config', 'sharePort'], true);
  if (part.type !== 'planner') keepWorkers(document, part);
  return document.toString();
}

export function withAdminPort(text: string, port: number): string {
  const document = parseDocument(text);
  if (document.errors.length === 0 && document.has('admin')) document.setIn(['admin', 'port'], port);
  return document.errors.length === 0 ? document.toString() : text;
}

/** Every part by the name that `--only` takes. */
export function listOf({ hasFrontend, hasPlanner, pools }: DeploymentParts): string[] {
  return [...(hasFrontend ? ['frontend'] : []), ...(hasPlanner ? ['planner'] : []), ...new Set(pools.map((pool) => `workers.${pool.name}`))];
}

function holds({ replicas, maxReplicas = replicas, firstIndex }: Pool, index: number | undefined): boolean {
  return index === undefined || (index >= firstIndex && index < firstIndex + Math.max(replicas, maxReplicas));
}

function keepWorkers(document: Document, part: Part): void {
  const { models } = document.toJS() as { models?: readonly { workers?: readonly { name?: unknown }[] }[] };
  (models ?? []).forEach((model, i) => {
    const workers = model.workers ?? [];
    for (let j = workers.length - 1; j >= 0; j--) {
      const path = ['models', i, 'workers', j];
      if (part.type !== 'workers' || workers[j]?.name !== part.pool) document.deleteIn(path);
      else if (part.index !== undefined) {
        document.setIn([...path, 'replicas'], 1);
        document.setIn([...path, 'firstIndex'], part.index);
      }
    }
  });
}
