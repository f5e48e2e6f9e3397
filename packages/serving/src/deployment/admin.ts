import type { DeploymentContext, HttpExchange, HttpListener, HttpServer } from '@armature/contracts';
import { hashToHex } from '@armature/tokens';
import type { KvTierEvent } from '@armature/kvbm';
import type { ModelRuntime } from '../execution/model-runtime.ts';
import type { RequestRecords } from '../routing/records.ts';
import type { WorkerHost } from '../worker/worker-host.ts';

const MAX_ADMIN_BODY_BYTES = 1024;
const DEFAULT_LIST_LENGTH = 50;
const EXPORT_LENGTH = 100_000;
const VERIFY_DEADLINE_MS = 60_000;

export interface AdminSources {
  models(): readonly ModelRuntime[];
  /** Workers that this process runs. */
  hosts(): readonly WorkerHost[];
  readonly records: RequestRecords;
}

/** Routes about routing and workers; core adds metrics and health. */
export function mountRoutes(context: DeploymentContext, sources: AdminSources): void {
  const { admin } = context;
  admin.get('/requests', 'The last requests, newest first (?limit=N).', ({ query }) => sources.records.list(listLength(query.get('limit'))));
  admin.get('/requests/:requestId', 'One request: decisions with every candidate and term, transfer, latencies.', ({ params }) =>
    sources.records.get(params['requestId'] ?? ''),
  );
  admin.get('/decisions/:requestId', 'The routing decisions of one request.', ({ params }) => sources.records.get(params['requestId'] ?? '')?.decisions);
  admin.get('/decisions', 'The last routing decisions, newest first (?limit=N).', ({ query }) => decisionLines(sources, listLength(query.get('limit'))));
  admin.get('/decisions.jsonl', 'The same, oldest first, one JSON object per line, for `armature rescore`; the first line of each model names policy and config (?limit=N, ?model=NAME).', ({ query }) =>
    decisionExport(context, sources, listLength(query.get('limit'), EXPORT_LENGTH), query.get('model')),
  );
  admin.get('/workers', 'Live workers with the load this process has given them.', () =>
    sources.models().flatMap((model) =>
      model.router.table.records().map((worker) => {
        const { agentMetadata: _bytes, ...facts } = worker;
        const slot = model.router.table.slotOf(worker.instanceId) ?? 0;
        return Object.assign(facts, { load: model.router.table.load(slot), isInhibited: model.router.table.isInhibited(slot), kvStream: model.router.kvState(slot) });
      }),
    ),
  );
  admin.get('/queues', 'Requests that wait for a worker, with the tenants that have most (?limit=N).', ({ query }) =>
    sources.models().flatMap((model) => (model.admission === undefined ? [] : [{ model: model.name, ...model.admission.snapshot(listLength(query.get('limit'))) }])),
  );
  admin.get('/hops', 'What prefill and transfer have taken lately, for the policies that predict them: observations, mean error of predictions.', () =>
    sources.models().map(({ name, hopTimes }) => Object.assign({ model: name }, hopTimes.report())),
  );
  admin.get('/engines', 'Engines of this process: queues, blocks, leases, reservations.', () =>
    sources.hosts().map(({ instanceId, engine }) => ({ instanceId, load: engine.load(), kv: engine.kv?.counts(), failure: engine.failure() })),
  );
  const managers = (worker: string | null): readonly WorkerHost[] => sources.hosts().filter(({ instanceId, manager }) => manager !== undefined && (worker === null || instanceId.startsWith(`${worker}@`)));
  admin.get('/kv', 'KV below the engines of this process: blocks, hits, evictions and problems per worker and tier (?worker=POOL/INDEX).', ({ query }) =>
    managers(query.get('worker')).map(({ manager }) => manager?.stats()),
  );
  admin.get('/kv/ls', 'Blocks held there, parents first (?worker=POOL/INDEX, ?limit=N).', ({ query }) =>
    managers(query.get('worker')).flatMap(({ instanceId, manager }) => blockRows(instanceId, manager?.snapshot() ?? [], listLength(query.get('limit')))),
  );
  admin.get('/kv/verify', 'Reads every block held there and checks it; changes nothing: corrupt ones are dropped when they are used (?worker=POOL/INDEX, ?deadlineMs=N).', ({ query }) =>
    Promise.all(managers(query.get('worker')).map(async ({ instanceId, manager }) => ({ worker: instanceId, ...(await manager?.verifyAll(listLength(query.get('deadlineMs'), VERIFY_DEADLINE_MS))) }))),
  );
  admin.get('/models', 'Models with their card.', () =>
    sources.models().map((model) => ({ name: model.name, isReady: model.isReady(), maxModelTokens: model.maxModelTokens, adapters: model.adapters.list().map((adapter) => ({ name: adapter.name, isReady: adapter.isReady() })), card: model.preprocessor.card })),
  );
  admin.get('/config', 'Effective configuration, secrets masked.', () => context.effectiveConfig());
}

/** The first `limit` blocks of a snapshot. */
function blockRows(worker: string, snapshot: readonly KvTierEvent[], limit: number): object[] {
  const rows: object[] = [];
  const hash = (words: Int32Array, i: number): string => hashToHex(words[2 * i]!, words[2 * i + 1]!);
  for (const event of snapshot) {
    if (event.type !== 'stored') continue;
    const { sequenceHashes, parent, tier } = event;
    for (let i = 0; i < sequenceHashes.length >> 1; i++) {
      if (rows.length >= limit) return rows;
      rows.push({ worker, tier, hash: hash(sequenceHashes, i), parent: i > 0 ? hash(sequenceHashes, i - 1) : parent.length === 2 ? hash(parent, 0) : null });
    }
  }
  return rows;
}

/** A limit that is no count at all means the usual one. */
function listLength(limit: string | null, usual = DEFAULT_LIST_LENGTH): number {
  return limit !== null && /^\d+$/.test(limit) ? Number(limit) : usual;
}

/** Decisions of the last requests, newest first, as plain objects. */
function decisionLines(sources: AdminSources, limit: number): Readonly<Record<string, unknown>>[] {
  const lines: Readonly<Record<string, unknown>>[] = [];
  for (const record of sources.records.list(Number.MAX_SAFE_INTEGER)) {
    for (const decision of [...record.decisions].reverse()) {
      if (lines.length >= limit) return lines;
      lines.push({ type: 'decision', requestId: record.requestId, model: record.model, startedAtMs: record.startedAtMs, ...decision.toJSON() });
    }
  }
  return lines;
}

function decisionExport(context: DeploymentContext, sources: AdminSources, limit: number, model: string | null): string {
  const lines = decisionLines(sources, limit).filter((line) => model === null || line['model'] === model);
  const effective = context.effectiveConfig() as { readonly models?: readonly { readonly name: string; readonly router?: { readonly use: string; readonly config?: unknown } }[] };
  const policies = (effective.models ?? []).filter(({ name }) => lines.some((line) => line['model'] === name));
  const heads = policies.map(({ name, router }) => ({ type: 'policy', model: name, policy: router?.use, config: router?.config ?? {} }));
  return [...heads, ...lines.reverse()].map((line) => `${JSON.stringify(line)}\n`).join('');
}

export async function listenAdmin(context: DeploymentContext, server: HttpServer, options: { readonly host: string; readonly port: number }): Promise<HttpListener> {
  const json = { 'content-type': 'application/json' };
  return server.listen(
    { host: options.host, port: options.port, maxBodyBytes: MAX_ADMIN_BODY_BYTES },
    {
      request: (exchange) => void answer(context, exchange),
      tooLarge: () => ({ status: 413, headers: json, body: '{"error":{"code":"ADMIN_BODY_TOO_LARGE","message":"the admin listener takes no bodies"}}' }),
    },
  );
}

async function answer(context: DeploymentContext, exchange: HttpExchange): Promise<void> {
  exchange.onAbort(() => undefined);
  if (exchange.method !== 'GET') {
    exchange.respond(405, { 'content-type': 'application/json', allow: 'GET' }, '{"error":{"code":"ADMIN_METHOD_NOT_ALLOWED","message":"the admin listener is read-only"}}');
    return;
  }
  const { status, contentType, body } = await context.admin.handle(exchange.path, new URLSearchParams(exchange.query));
  exchange.respond(status, { 'content-type': contentType }, body);
}
