import { resolve } from 'node:path';
import { definePlugin } from '@armature/contracts';
import type { JsonSchema, PluginContext, PluginDescriptor } from '@armature/contracts';
import { FileDiscovery } from './file-discovery.ts';
import { MemoryDiscovery } from './memory-discovery.ts';
import { MemoryEventPlane } from './memory-events.ts';
import { MemoryRequestPlane } from './memory-requests.ts';

const encode: JsonSchema = {
  type: 'boolean',
  default: false,
  description: 'Send every message through the codec, as between hosts. Slower; on in tests.',
};

interface Encode {
  readonly encode: boolean;
}

function base(config: Encode, context: PluginContext): Encode & Pick<PluginContext, 'codec' | 'clock' | 'log'> {
  return { encode: config.encode, codec: context.codec, clock: context.clock, log: context.log };
}

export const memoryDiscovery = definePlugin<'discovery', Encode>({
  kind: 'discovery',
  contract: 'v1',
  name: 'memory',
  description: 'Discovery inside one process.',
  configSchema: { type: 'object', additionalProperties: false, properties: { encode } },
  create: (config, context) => new MemoryDiscovery(base(config, context)),
});

export const fileDiscovery = definePlugin<'discovery', { readonly path: string; readonly pollMs: number }>({
  kind: 'discovery',
  contract: 'v1',
  name: 'file',
  description: 'Discovery through a folder that all processes see: nothing to install.',
  configSchema: {
    type: 'object',
    additionalProperties: false,
    required: ['path'],
    properties: {
      path: { type: 'string', minLength: 1, description: 'The folder; made when it is missing. Processes with the same folder see each other.' },
      pollMs: { type: 'integer', minimum: 10, maximum: 60_000, default: 200, description: 'Milliseconds between looks. On local file systems changes are noticed at once.' },
    },
  },
  create: (config, context) => new FileDiscovery({ path: resolve(context.baseDir, config.path), pollMs: config.pollMs, codec: context.codec, clock: context.clock, log: context.log }),
});

export const memoryEvents = definePlugin<'event-plane', Encode & { readonly bufferEvents: number }>({
  kind: 'event-plane',
  contract: 'v1',
  name: 'memory',
  description: 'Events inside one process, delivered at once.',
  configSchema: {
    type: 'object',
    additionalProperties: false,
    properties: {
      encode,
      bufferEvents: { type: 'integer', minimum: 1, default: 65_536, description: 'Undelivered events of one subscriber, in events; a fuller buffer loses its oldest.' },
    },
  },
  create: (config, context) => {
    const dropped = context.metrics.counter({ name: 'armature_events_dropped_total', help: 'Events that slow subscribers lost.', labelNames: ['plane'] });
    return new MemoryEventPlane({ ...base(config, context), bufferEvents: config.bufferEvents, droppedEvents: dropped.with('memory') });
  },
});

export const memoryRequests = definePlugin<'request-plane', Encode & { readonly highWaterMessages: number; readonly maxBufferedMessages: number }>({
  kind: 'request-plane',
  contract: 'v1',
  name: 'memory',
  description: 'Request streams inside one process.',
  configSchema: {
    type: 'object',
    additionalProperties: false,
    properties: {
      encode,
      highWaterMessages: { type: 'integer', minimum: 1, default: 1024, description: 'Undelivered messages of one direction of a stream, above which senders are told to slow down.' },
      maxBufferedMessages: { type: 'integer', minimum: 1, default: 65_536, description: 'Undelivered messages of one direction of a stream, above which the stream fails.' },
    },
  },
  create: (config, context) =>
    new MemoryRequestPlane({ ...base(config, context), highWaterMessages: config.highWaterMessages, maxBufferedMessages: config.maxBufferedMessages }),
});

/** In every process, without being named. */
export const builtinPlanes: readonly PluginDescriptor[] = [memoryDiscovery, fileDiscovery, memoryEvents, memoryRequests] as unknown as readonly PluginDescriptor[];
