import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { definePlugin, modelFacts } from '@armature/contracts';
import type { PluginContext } from '@armature/contracts';
import { ChildServer, freePort } from './child-server.ts';
import { checkConfig, trtllmSchema } from './config.ts';
import type { TrtllmConfig } from './config.ts';
import { engineYaml, serveArguments, serverRole } from './engine-yaml.ts';
import type { ServeConfig } from './engine-yaml.ts';
import type { Http } from './http.ts';
import { KvEventFollower } from './kv-events/follower.ts';
import { readModelEnds } from './model-ends.ts';
import { TrtllmBackend } from './trtllm-backend.ts';

/** A TensorRT-LLM server as an engine. */
export const trtllm = definePlugin<'engine-backend', TrtllmConfig>({
  kind: 'engine-backend',
  contract: 'v1',
  name: 'trtllm',
  description: 'Attaches to a running trtllm-serve, or starts and watches one.',
  configSchema: trtllmSchema,
  check: checkConfig,
  create: async (config, context) => {
    const { clock, log, metrics, random, scopes } = context;
    const { blockSize, folder } = modelFacts(context);
    const served = config.serve === undefined ? undefined : await openServer(config.serve, blockSize, context);
    const baseUrl = served?.baseUrl ?? config.baseUrl;
    const follower = (http: Http): KvEventFollower =>
      new KvEventFollower({
        fetch: async () => {
          const { status, text } = await http.ask({ method: 'POST', path: '/kv_cache_events', timeoutMs: config.eventTimeoutMs });
          if (status !== 200) throw new Error(`status ${status}: ${text.slice(0, 200)}`);
          return text;
        },
        intervalMs: config.eventIntervalMs,
        blockSize,
        clock,
        log,
        metrics: { metrics, labels: labelsOf(scopes) },
      });
    return new TrtllmBackend({
      config: { ...config, baseUrl },
      blockSize,
      clock,
      log,
      random,
      ends: readModelEnds(folder),
      follower: config.kvEvents ? follower : undefined,
      ...(served === undefined ? {} : { process: served.process }),
    });
  },
});

interface OpenedServer {
  readonly baseUrl: string;
  readonly process: ChildServer;
}

/** Its options are written when it is started, and removed when it has ended. */
async function openServer(serve: ServeConfig, blockSize: number, { scopes, baseDir, clock, log }: PluginContext): Promise<OpenedServer> {
  const role = serverRole(serve, scopes.find(({ kind }) => kind === 'worker')?.facts['role']);
  const port = serve.port === 0 ? await freePort(serve.host) : serve.port;
  const folder = mkdtempSync(join(tmpdir(), 'armature-trtllm-'));
  const file = join(folder, 'options.yaml');
  writeFileSync(file, engineYaml(serve, role, blockSize));
  const model = /^\.{1,2}\//.test(serve.model) ? resolve(baseDir, serve.model) : serve.model;
  const process = new ChildServer({
    command: [...serve.command, ...serveArguments({ ...serve, model }, port, file)],
    env: serve.env,
    host: serve.host,
    port,
    restarts: serve.restarts,
    restartDelayMs: serve.restartDelayMs,
    stopTimeoutMs: serve.stopTimeoutMs,
    stopped: () => rmSync(folder, { recursive: true, force: true }),
    clock,
    log,
  });
  const reachable = serve.host === '0.0.0.0' || serve.host === '::' ? '127.0.0.1' : serve.host;
  return { baseUrl: `http://${reachable}:${port}`, process };
}

/** Model and pool, as other metrics of the worker have them. */
function labelsOf(scopes: PluginContext['scopes']): [model: string, pool: string] {
  const nameOf = (kind: string): string => scopes.find((scope) => scope.kind === kind)?.name ?? '';
  return [nameOf('model'), nameOf('worker').split('/', 1)[0] ?? ''];
}
