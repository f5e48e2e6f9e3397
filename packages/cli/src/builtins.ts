import type { PluginDescriptor } from '@armature/contracts';
import { mock } from '@armature/backend-mock';
import { reference } from '@armature/backend-reference';
import { trtllm } from '@armature/backend-trtllm';
import { vllm } from '@armature/backend-vllm';
import { node, openai } from '@armature/frontend-openai';
import { uws } from '@armature/http-uws';
import { diskTier, hostTier, kvPolicyPlugins } from '@armature/kvbm';
import { cmaTransport, cudaTransport, fileTransport, memoryTransport, shmTransport, tcpTransport } from '@armature/nixel';
import { plannerPlugins } from '@armature/planner';
import { huggingface } from '@armature/preprocessor';
import { routerPlugins } from '@armature/router-kv';
import { servingPlugins } from '@armature/serving';
import { processConnector } from './process-connector/plugin.ts';

/** The plug-ins that come with `armature`; they use the same door as foreign ones. `file`: the configuration, for those that start processes from it. */
export async function builtins(file?: string): Promise<readonly PluginDescriptor[]> {
  const all: readonly unknown[] = [...servingPlugins, ...routerPlugins, openai, node, uws, huggingface, reference, mock, vllm, trtllm, memoryTransport, tcpTransport, shmTransport, cmaTransport, fileTransport, cudaTransport, hostTier, diskTier, ...kvPolicyPlugins, ...plannerPlugins, processConnector(file)];
  return all as readonly PluginDescriptor[];
}

/** Packages apart, because they bring dependencies of their own; `npm install` makes them known, by the name a file uses. */
export const companions: Readonly<Record<string, string>> = {
  zmq: '@armature/events-zmq',
  nats: '@armature/events-nats',
  etcd: '@armature/discovery-etcd',
  s3: '@armature/kvbm-s3',
  nixl: '@armature/nixel-nixl',
  'openai-server': '@armature/backend-openai',
};
