export { NatsEvents } from './nats-events.ts';
export type { NatsEventMetrics, NatsEventsConfig, NatsEventsOptions } from './nats-events.ts';
export type { NatsConnectionConfig, NatsTlsConfig } from './connect.ts';
export { natsEventMetrics, natsEvents } from './plugin.ts';
