export { zmqEvents } from './plugin.ts';
export { ZmqEvents } from './zmq-events.ts';
export type { ZmqEventsConfig, ZmqEventsOptions } from './zmq-events.ts';
export { eventMetrics } from './metrics.ts';
export type { EventMetrics } from './metrics.ts';
export type { CurveKeys } from './sockets.ts';
