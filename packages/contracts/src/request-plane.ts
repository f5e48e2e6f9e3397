import type { PlainData } from './context.ts';
import type { ErrorData } from './errors.ts';
import type { Lifecycle } from './plugin.ts';

/** One message of a stream: plain data with a `type`. */
export type PlaneMessage = { readonly type: string; readonly [key: string]: PlainData };

/** The receiving half. `closed` comes exactly once and last; without an error the other side ended normally. */
export interface StreamSink {
  message(message: PlaneMessage): void;
  closed(error: ErrorData | undefined): void;
}

/** The sending half. Calls after the stream is closed are ignored. */
export interface PlaneStream {
  /** Never blocks. False: above the high-water mark; the sender should slow down. Above the hard bound the stream fails with `PLANE_STREAM_OVERFLOW`. */
  send(message: PlaneMessage): boolean;
  /** Ends this stream; both sides get `closed`. */
  close(error?: ErrorData): void;
}

export interface StreamOpen {
  readonly method: string;
  readonly message: PlaneMessage;
  /** Time budget left for the whole stream. The plane closes it with `PLANE_DEADLINE_EXCEEDED` on both sides when it is used up. */
  readonly deadlineMs: number;
  /** W3C trace context, carried. */
  readonly traceparent?: string;
}

/** Called for each stream opened towards a served endpoint; returns the sink for the caller's messages. May throw ArmatureError to refuse. */
export type StreamHandler = (open: StreamOpen, stream: PlaneStream) => StreamSink;

export interface ServedEndpoint {
  /** What callers dial, as found in discovery: `memory:NAME` or `tcp://127.0.0.1:PORT/NAME`. */
  readonly address: string;
  close(): Promise<void>;
}

/**
 * Remote calls as streams of messages both ways. Order within a stream is kept. Messages of many streams to one peer are
 * written together, once per tick. A lost connection closes each of its streams with `PLANE_DISCONNECTED` (retryable).
 */
export interface RequestPlane extends Lifecycle {
  readonly supports: { readonly processes: boolean };
  serve(name: string, handler: StreamHandler): Promise<ServedEndpoint>;
  /** Never throws: an unreachable address arrives at `sink.closed`. */
  open(address: string, open: StreamOpen, sink: StreamSink): PlaneStream;
}
