import { resolve } from 'node:path';
import { ArmatureError } from '@armature/contracts';
import type { Clock, Logger } from '@armature/contracts';
import type { VllmConfig } from '../vllm-backend.ts';
import { serveCommand } from './serve-config.ts';
import { freePort, VllmProcess } from './vllm-process.ts';

export interface ServeSurroundings {
  readonly blockSize: number;
  readonly clock: Clock;
  readonly log: Logger;
  /** What our connector wants vLLM to be told; undefined: there is none. */
  readonly transferConfig: Readonly<Record<string, unknown>> | undefined;
  /** Folder of the configuration. */
  readonly baseDir: string;
}

/**
 * The configuration with the addresses of the server that is going to be started, and that server; or as it is, when there is none to start.
 * Throws `VLLM_CONFIG_ADDRESS`, `VLLM_SERVE_FLAG`.
 */
export async function serveParts(config: VllmConfig, around: ServeSurroundings): Promise<{ readonly config: VllmConfig; readonly process: VllmProcess | undefined }> {
  const { serve } = config;
  if ((serve.model === '') === (config.baseUrl === '')) {
    throw new ArmatureError('VLLM_CONFIG_ADDRESS', serve.model === '' ? 'the vllm engine has neither a baseUrl nor a serve.model' : 'the vllm engine has both a baseUrl and a serve.model', {
      hint: 'set engine.config.baseUrl to attach to a running server, or engine.config.serve.model to start one',
    });
  }
  if (serve.model === '') return { config, process: undefined };
  const { clock, log, blockSize } = around;
  const port = serve.port === 0 ? await freePort(serve.host) : serve.port;
  const events = serve.kvEvents ? await eventAddresses(config) : undefined;
  const transferConfig = serve.kvTransferConfig !== '' ? serve.kvTransferConfig : around.transferConfig === undefined ? '' : JSON.stringify(around.transferConfig);
  const model = /^\.{1,2}\//.test(serve.model) ? resolve(around.baseDir, serve.model) : serve.model;
  const command = serveCommand({ ...serve, model }, { blockSize, servedName: config.model, port, events, transferConfig });
  const { env, host, restarts, restartDelayMs, stopTimeoutMs } = serve;
  const process = new VllmProcess({ command, env, host, port, restarts, restartDelayMs, stopTimeoutMs, clock, log });
  const reachable = host === '0.0.0.0' || host === '::' ? '127.0.0.1' : host;
  const kvEvents = events === undefined ? config.kvEvents : { ...config.kvEvents, ...events, listen: true };
  return { config: { ...config, baseUrl: `http://${reachable}:${port}`, kvEvents }, process };
}

/** Those of the configuration, or free ones of this machine: vLLM connects to the first and listens on the second. */
async function eventAddresses({ kvEvents }: VllmConfig): Promise<{ readonly endpoint: string; readonly replayEndpoint: string }> {
  const free = async (): Promise<string> => `tcp://127.0.0.1:${await freePort('127.0.0.1')}`;
  return { endpoint: kvEvents.endpoint === '' ? await free() : kvEvents.endpoint, replayEndpoint: kvEvents.replayEndpoint === '' ? await free() : kvEvents.replayEndpoint };
}
