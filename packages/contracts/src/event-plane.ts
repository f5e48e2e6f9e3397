import type { PlainData } from './context.ts';
import type { Lifecycle } from './plugin.ts';

export type EventListener = (subject: string, payload: PlainData) => void;

/**
 * Publish and subscribe; at most once, in order per publisher and subject. Receivers find gaps by the event ids in the payload.
 * A slow subscriber loses its oldest events (bounded buffer), never blocks a publisher.
 */
export interface EventPlane extends Lifecycle {
  readonly supports: { readonly processes: boolean };
  /** Synchronous and cheap: may buffer, must not throw on a missing subscriber. */
  publish(subject: string, payload: PlainData): void;
  /** All subjects that start with `prefix`. */
  subscribe(prefix: string, listener: EventListener): { close(): void };
}
