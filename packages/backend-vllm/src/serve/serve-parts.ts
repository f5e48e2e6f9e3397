import { resolve } from 'node:path';
import { ArmatureError } from '@armature/contracts';
import type { Clock, Logger } from '@armature/contracts';
import { offsetEndpoint, ONLY_RANK } from '../ranks.ts';
import type { RankPlace } from '../ranks.ts';
import type { VllmConfig } from '../vllm-config.ts';
import { freePort, freePorts } from './ports.ts';
import { serveCommand } from './serve-config.ts';
import { VllmProcess } from './vllm-process.ts';
import type { ListenPort } from './vllm-process.ts';

export interface ServeSurroundings {
  readonly blockSize: number;
  readonly clock: Clock;
  readonly log: Logger;
  /** What our connector wants vLLM to be told; undefined: there is none. */
  readonly transferConfig: Readonly<Record<string, unknown>> | undefined;
  /** Folder of the configuration. */
  readonly baseDir: string;
  readonly place?: RankPlace;
}

export interface ServedParts {
  readonly config: VllmConfig;
  readonly process: VllmProcess | undefined;
}

/** Where vLLM's NIXL connector answers other instances: rank r r ports above. */
const SIDE_CHANNEL = 'VLLM_NIXL_SIDE_CHANNEL_PORT';

/**
 * The configuration with the addresses of the server that is going to be started, and that server; without it, when there is none to start or another rank's worker
 * starts it. Throws `VLLM_CONFIG_ADDRESS`, `VLLM_SERVE_FLAG`, `VLLM_EVENTS_ENDPOINT`.
 */
export async function serveParts(config: VllmConfig, around: ServeSurroundings): Promise<ServedParts> {
  const { serve } = config;
  const { place = ONLY_RANK } = around;
  if ((serve.model === '') === (config.baseUrl === '')) {
    throw new ArmatureError('VLLM_CONFIG_ADDRESS', serve.model === '' ? 'the vllm engine has neither a baseUrl nor a serve.model' : 'the vllm engine has both a baseUrl and a serve.model', {
      hint: 'set engine.config.baseUrl to attach to a running server, or engine.config.serve.model to start one',
    });
  }
  if (serve.model === '') return { config, process: undefined };
  const port = await serverPort(config, place);
  const events = serve.kvEvents ? await eventAddresses(config, place, port) : undefined;
  const { host } = serve;
  const reachable = host === '0.0.0.0' || host === '::' ? '127.0.0.1' : host;
  const served: VllmConfig = {
    ...config,
    baseUrl: `http://${reachable}:${port}`,
    apiKey: config.apiKey === '' ? (serve.env['VLLM_API_KEY'] ?? '') : config.apiKey,
    kvEvents: events === undefined ? config.kvEvents : { ...config.kvEvents, ...events, listen: true },
  };
  return { config: served, process: place.rank === 0 ? await serverProcess(served, { ...around, place, port, events }) : undefined };
}

interface Addresses {
  readonly place: RankPlace;
  readonly port: number;
  readonly events: EventAddresses | undefined;
}

async function serverProcess({ serve, model: servedName, apiKey }: VllmConfig, around: ServeSurroundings & Addresses): Promise<VllmProcess> {
  const { clock, log, blockSize, place, port, events } = around;
  const transferConfig = serve.kvTransferConfig !== '' ? serve.kvTransferConfig : around.transferConfig === undefined ? '' : JSON.stringify(around.transferConfig);
  const model = /^\.{1,2}\//.test(serve.model) ? resolve(around.baseDir, serve.model) : serve.model;
  const command = serveCommand({ ...serve, model }, { blockSize, servedName, port, events, transferConfig, ranks: place.ranks });
  const sidePort = serve.env[SIDE_CHANNEL] ?? String(await freePorts('127.0.0.1', place.ranks));
  // The key goes by the environment: a command line is for all to see.
  const env: Readonly<Record<string, string>> = { ...serve.env, ...(apiKey === '' ? {} : { VLLM_API_KEY: apiKey }), [SIDE_CHANNEL]: sidePort };
  const { host, restarts, restartDelayMs, stopTimeoutMs } = serve;
  const ports: ListenPort[] = [
    { host, port, hint: 'set engine.config.serve.port: 0 for a free one' },
    ...ranksOf(place.ranks).map((rank): ListenPort => ({ host: env['VLLM_NIXL_SIDE_CHANNEL_HOST'] ?? '127.0.0.1', port: Number(sidePort) + rank, hint: `leave ${SIDE_CHANNEL} out of engine.config.serve.env: each server gets a free one` })),
    ...(events === undefined ? [] : ranksOf(place.ranks).map((rank) => replayPort(offsetEndpoint(events.replayEndpoint, rank)))),
  ];
  return new VllmProcess({ command, env, ports, restarts, restartDelayMs, stopTimeoutMs, clock, log });
}

function ranksOf(ranks: number): number[] {
  return Array.from({ length: ranks }, (_, rank) => rank);
}

function replayPort(endpoint: string): ListenPort {
  const [, host = '', port = ''] = /^tcp:\/\/(.*):(\d+)$/.exec(endpoint) ?? [];
  return { host: host === '*' ? '0.0.0.0' : host, port: Number(port), hint: 'leave engine.config.kvEvents.replayEndpoint out for a free one' };
}

/** Of several ranks: that of the configuration, so that each rank's worker finds the server of its group. */
async function serverPort({ serve }: VllmConfig, { ranks, group }: RankPlace): Promise<number> {
  if (ranks === 1) return serve.port === 0 ? freePort(serve.host) : serve.port;
  if (serve.port > 0) return serve.port + group * portsPerServer(ranks);
  throw new ArmatureError('VLLM_CONFIG_ADDRESS', 'data-parallel ranks share one server, and its port is not set', { hint: `set engine.config.serve.port, with ${portsPerServer(ranks)} free ports from there on for each server` });
}

/** Its own, and one for the events and one for the replays of each rank. */
function portsPerServer(ranks: number): number {
  return 1 + 2 * ranks;
}

interface EventAddresses {
  readonly endpoint: string;
  readonly replayEndpoint: string;
}

/** Of rank 0: those of the configuration, or free ones of this machine. vLLM connects to the first and listens on the second; each rank at its own, as many ports above. */
async function eventAddresses({ kvEvents }: VllmConfig, { ranks, group }: RankPlace, port: number): Promise<EventAddresses> {
  const local = (at: number): string => `tcp://127.0.0.1:${at}`;
  const free = async (offset: number): Promise<string> => local(ranks === 1 ? await freePort('127.0.0.1') : port + offset);
  const own = (endpoint: string, offset: number): string | Promise<string> => (endpoint === '' ? free(offset) : offsetEndpoint(endpoint, group * (ranks === 1 ? 0 : ranks)));
  return { endpoint: await own(kvEvents.endpoint, 1), replayEndpoint: await own(kvEvents.replayEndpoint, 1 + ranks) };
}
