import type { Counter, Metrics } from '@armature/contracts';
import type { StreamCounters } from './publisher-stream.ts';

export interface EventMetrics extends StreamCounters {
  readonly published: Counter;
  readonly delivered: Counter;
  readonly dropped: Counter;
  /** Reads the state before every scrape; returns how to stop. */
  readonly collect: (read: () => { readonly announced: number; readonly connected: number; readonly replayBytes: number }) => () => void;
}

export function eventMetrics(metrics: Metrics): EventMetrics {
  const counter = (name: string, help: string): Counter => metrics.counter({ name: `armature_events_${name}_total`, help, labelNames: ['plane'] }).with('zmq');
  const publishers = metrics.gauge({ name: 'armature_events_publishers', help: 'Publishers of other processes, by state.', labelNames: ['plane', 'state'] });
  const replayBytes = metrics.gauge({ name: 'armature_events_replay_buffer_bytes', help: 'Events kept for replay.', labelNames: ['plane'] }).with('zmq');
  const announced = publishers.with('zmq', 'announced');
  const connected = publishers.with('zmq', 'connected');
  return {
    published: counter('published', 'Events published by this process.'),
    delivered: counter('delivered', 'Events given to subscribers of this process.'),
    dropped: counter('dropped', 'Events that slow subscribers lost.'),
    gaps: counter('gaps', 'Gaps found in the events of a publisher.'),
    replayed: counter('replayed', 'Missed events that a publisher sent again.'),
    lost: counter('lost', 'Missed events that were not to be had any more.'),
    refused: counter('refused', 'Frames and connections that were refused.'),
    collect: (read) =>
      metrics.onCollect(() => {
        const now = read();
        announced.set(now.announced);
        connected.set(now.connected);
        replayBytes.set(now.replayBytes);
      }),
  };
}
