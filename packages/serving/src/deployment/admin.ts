import type { DeploymentContext, HttpExchange, HttpListener, HttpServer } from '@armature/contracts';
import type { ModelRuntime } from '../execution/model-runtime.ts';
import type { RequestRecords } from '../routing/records.ts';
import type { WorkerHost } from '../worker/worker-host.ts';

const MAX_ADMIN_BODY_BYTES = 1024;
const DEFAULT_LIST_LENGTH = 50;

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
  admin.get('/workers', 'Live workers with the load this process has given them.', () =>
    sources.models().flatMap((model) =>
      model.router.table.records().map((worker) => {
        const { agentMetadata: _bytes, ...facts } = worker;
        return Object.assign(facts, { load: model.router.table.load(model.router.table.slotOf(worker.instanceId) ?? 0) });
      }),
    ),
  );
  admin.get('/engines', 'Engines of this process: queues, blocks, leases, reservations.', () =>
    sources.hosts().map(({ instanceId, engine }) => ({ instanceId, load: engine.load(), kv: engine.kv?.counts(), failure: engine.failure() })),
  );
  admin.get('/models', 'Models with their card.', () =>
    sources.models().map((model) => ({ name: model.name, isReady: model.isReady(), maxModelTokens: model.maxModelTokens, card: model.preprocessor.card })),
  );
  admin.get('/config', 'Effective configuration, secrets masked.', () => context.effectiveConfig());
}

/** A limit that is no count at all means the usual one. */
function listLength(limit: string | null): number {
  return limit !== null && /^\d+$/.test(limit) ? Number(limit) : DEFAULT_LIST_LENGTH;
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
