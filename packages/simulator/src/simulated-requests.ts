import type { Clock, ErrorData, PlaneMessage, PlaneStream, RequestPlane, ServedEndpoint, StreamHandler, StreamOpen, StreamSink } from '@armature/contracts';
import { MemoryRequestPlane } from '@armature/core';
import type { MemoryRequestOptions } from '@armature/core';
import { Wire, messageBytes } from './network.ts';
import type { LinkModel } from './network.ts';

const SCHEME = 'memory:';

export interface SimulatedRequestsOptions {
  readonly plane: MemoryRequestOptions;
  /** The way between callers and an endpoint. */
  readonly linkOf: (endpoint: string) => LinkModel;
  /** After how long of silence a connection counts as lost. */
  readonly detectMs: number;
}

/** What lies between callers and one endpoint. */
class Route {
  readonly there: Wire;
  readonly back: Wire;
  readonly isFree: boolean;
  isCut = false;
  /** Messages of a route that is cut, in order: they arrive should it be mended before the connection counts as lost. */
  held: (() => void)[] = [];
  readonly streams = new Set<RemoteStream>();

  /** Nothing is in the way of a message. */
  get isOpen(): boolean {
    return this.isFree && !this.isCut;
  }

  constructor(clock: Clock, link: LinkModel) {
    this.there = new Wire(clock, link);
    this.back = new Wire(clock, link);
    this.isFree = link.latencyMs === 0 && !Number.isFinite(link.gigabytesPerSecond);
  }
}

/** The request plane of a simulated cluster: core's memory plane behind links with latency, bandwidth and faults. */
export class SimulatedRequests implements RequestPlane {
  readonly supports = { processes: false } as const;
  readonly #options: SimulatedRequestsOptions;
  readonly #plane: MemoryRequestPlane;
  readonly #clock: Clock;
  readonly #routes = new Map<string, Route>();

  constructor(options: SimulatedRequestsOptions) {
    this.#options = options;
    this.#plane = new MemoryRequestPlane(options.plane);
    this.#clock = options.plane.clock;
  }

  serve(name: string, handler: StreamHandler): Promise<ServedEndpoint> {
    return this.#plane.serve(name, handler);
  }

  open(address: string, open: StreamOpen, sink: StreamSink): PlaneStream {
    const route = this.#route(address.slice(SCHEME.length));
    const stream = new RemoteStream({ clock: this.#clock, plane: this.#plane, route, detectMs: this.#options.detectMs }, sink);
    stream.open(address, open);
    return stream;
  }

  /** Nothing passes to or from an endpoint any more; its connections are lost after a while. */
  cut(endpoint: string): void {
    const route = this.#route(endpoint);
    if (route.isCut) return;
    route.isCut = true;
    this.#clock.setTimer(this.#options.detectMs, () => {
      if (!route.isCut) return;
      route.held = [];
      for (const stream of [...route.streams]) stream.lose();
    });
  }

  mend(endpoint: string): void {
    const route = this.#route(endpoint);
    route.isCut = false;
    for (const send of route.held.splice(0)) send();
  }

  /** The endpoint's process is gone: its host resets every connection. */
  reset(endpoint: string): void {
    for (const stream of [...this.#route(endpoint).streams]) stream.lose();
  }

  close(): void {
    this.#plane.close();
  }

  #route(endpoint: string): Route {
    let route = this.#routes.get(endpoint);
    if (route === undefined) {
      route = new Route(this.#clock, this.#options.linkOf(endpoint));
      this.#routes.set(endpoint, route);
    }
    return route;
  }
}

interface StreamParts {
  readonly clock: Clock;
  readonly plane: MemoryRequestPlane;
  readonly route: Route;
  readonly detectMs: number;
}

/** The caller's half of a stream; the other half lies in the memory plane, at the far end of the link. */
class RemoteStream implements PlaneStream, StreamSink {
  readonly #parts: StreamParts;
  readonly #sink: StreamSink;
  #inner: PlaneStream | undefined = undefined;
  #isClosed = false;

  constructor(parts: StreamParts, sink: StreamSink) {
    this.#parts = parts;
    this.#sink = sink;
  }

  open(address: string, open: StreamOpen): void {
    const { clock, plane, route, detectMs } = this.#parts;
    route.streams.add(this);
    const sentAtMs = clock.nowMs();
    if (route.isCut) clock.setTimer(detectMs, () => this.lose());
    this.#pass(route.there, () => messageBytes(open.message), () => {
      if (this.#isClosed) return;
      this.#inner = plane.open(address, { ...open, deadlineMs: Math.max(0, open.deadlineMs - (clock.nowMs() - sentAtMs)) }, this);
    });
  }

  send(message: PlaneMessage): boolean {
    if (this.#isClosed) return false;
    this.#pass(this.#parts.route.there, () => messageBytes(message), () => void this.#inner?.send(message));
    return true;
  }

  close(error?: ErrorData): void {
    if (this.#isClosed) return;
    this.#end();
    this.#parts.clock.defer(() => this.#sink.closed(error));
    this.#pass(this.#parts.route.there, () => 64, () => this.#inner?.close(error));
  }

  /** From the far end. */
  message(message: PlaneMessage): void {
    if (this.#parts.route.isOpen) {
      if (!this.#isClosed) this.#sink.message(message);
      return;
    }
    this.#pass(this.#parts.route.back, () => messageBytes(message), () => {
      if (!this.#isClosed) this.#sink.message(message);
    });
  }

  /** From the far end. */
  closed(error: ErrorData | undefined): void {
    this.#pass(this.#parts.route.back, () => 64, () => {
      if (this.#isClosed) return;
      this.#end();
      this.#sink.closed(error);
    });
  }

  /** The connection is gone, for both sides. */
  lose(): void {
    if (this.#isClosed) return;
    const error: ErrorData = { code: 'PLANE_DISCONNECTED', message: 'the connection was lost', hint: 'send the request elsewhere', retryable: true };
    this.#end();
    this.#parts.clock.defer(() => this.#sink.closed(error));
    this.#inner?.close(error);
  }

  #end(): void {
    this.#isClosed = true;
    this.#parts.route.streams.delete(this);
  }

  #pass(wire: Wire, bytes: () => number, deliver: () => void): void {
    const { route, clock } = this.#parts;
    if (route.isCut) route.held.push(() => this.#pass(wire, bytes, deliver));
    else if (route.isFree) deliver();
    else clock.setTimer(wire.takes(bytes()), deliver);
  }
}
