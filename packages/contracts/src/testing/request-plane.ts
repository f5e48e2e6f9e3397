import assert from 'node:assert/strict';
import { ArmatureError } from '../errors.ts';
import type { ErrorData } from '../errors.ts';
import type { PlaneMessage, PlaneStream, RequestPlane, StreamHandler, StreamOpen, StreamSink } from '../request-plane.ts';
import { assertSame, everySort, Pace, seeded } from './plane-support.ts';
import type { PlanePace } from './plane-support.ts';
import { registerRules } from './runner.ts';
import type { ContractRule, SkippedRule, SuiteRunner } from './runner.ts';

export interface RequestPlaneRuleOptions {
  /** A new, started request plane of its own. */
  create(): RequestPlane | Promise<RequestPlane>;
  /** Another process's end, which can dial what the first serves. Without it the rules dial and serve at one end. */
  connect?(first: RequestPlane): RequestPlane | Promise<RequestPlane>;
  /** Address at which nothing is served. Default `memory:nobody`. */
  readonly unreachableAddress?: string;
  /** Lets `ms` pass on the plane's clock. Default: real time. */
  readonly passTime?: (ms: number) => Promise<void>;
  /** Messages that overflow a stream when sent in one go. Default 200 000. */
  readonly floodMessages?: number;
  readonly pace?: PlanePace;
}

export interface RequestPlaneContractOptions extends RequestPlaneRuleOptions {
  readonly runner: SuiteRunner;
  readonly skip?: readonly SkippedRule[];
}

/** The rules of request-plane v1. */
export function requestPlaneContract(options: RequestPlaneContractOptions): void {
  registerRules(options.runner, 'request-plane v1', requestPlaneRules(options), options.skip);
}

interface Bench {
  readonly server: RequestPlane;
  readonly client: RequestPlane;
  readonly pace: Pace;
  passTime(ms: number): Promise<void>;
}
type Rule = (name: string, body: (bench: Bench) => Promise<void>) => ContractRule;

const LONG_MS = 60_000;
const open = (method = 'test', message: PlaneMessage = { type: 'open' }): StreamOpen => ({ method, message, deadlineMs: LONG_MS });

/** Everything one side of a stream received. */
class Recorder implements StreamSink {
  readonly messages: PlaneMessage[] = [];
  readonly closes: (ErrorData | undefined)[] = [];
  /** Messages that came after `closed`. */
  late = 0;

  message(message: PlaneMessage): void {
    if (this.closes.length > 0) this.late++;
    this.messages.push(message);
  }

  closed(error: ErrorData | undefined): void {
    this.closes.push(error);
  }

  get isClosed(): boolean {
    return this.closes.length > 0;
  }
}

/** Serves one endpoint that records each stream. */
class Served {
  readonly opens: StreamOpen[] = [];
  readonly sinks: Recorder[] = [];
  readonly streams: PlaneStream[] = [];
  readonly handler: StreamHandler = (received, stream) => {
    const sink = new Recorder();
    this.opens.push(received);
    this.sinks.push(sink);
    this.streams.push(stream);
    this.onOpen?.(stream, sink);
    return sink;
  };
  onOpen: ((stream: PlaneStream, sink: Recorder) => void) | undefined = undefined;
}

export function requestPlaneRules(options: RequestPlaneRuleOptions): ContractRule[] {
  const rule: Rule = (name, body) => ({
    name,
    run: async () => {
      const server = await options.create();
      const client = (await options.connect?.(server)) ?? server;
      const passTime = options.passTime ?? ((ms: number) => new Promise<void>((resolve) => void setTimeout(resolve, ms)));
      try {
        await body({ server, client, pace: new Pace(options.pace ?? {}), passTime });
      } finally {
        await client.close?.();
        await server.close?.();
      }
    },
  });
  return [
    ...openRules(rule, options.unreachableAddress ?? 'memory:nobody'),
    ...messageRules(rule),
    ...closeRules(rule),
    ...deadlineRules(rule),
    ...boundRules(rule, options.floodMessages ?? 200_000),
    ...lifecycleRules(rule),
  ];
}

function openRules(rule: Rule, unreachable: string): ContractRule[] {
  return [
    rule('open: the handler gets method, message, budget and trace', async ({ server, client, pace }) => {
      const served = new Served();
      const { address } = await server.serve('a', served.handler);
      const traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
      client.open(address, { method: 'generate', message: { type: 'open', n: 1 }, deadlineMs: LONG_MS, traceparent }, new Recorder());
      await pace.until('the open', () => served.opens.length === 1);
      const { method, message, deadlineMs, traceparent: carried } = served.opens[0] as StreamOpen;
      assertSame({ method, message, carried }, { method: 'generate', message: { type: 'open', n: 1 }, carried: traceparent }, 'open');
      assert.ok(deadlineMs > 0 && deadlineMs <= LONG_MS, `budget ${deadlineMs}`);
    }),
    rule('open: nothing is called back inside open or send', async ({ server, client, pace }) => {
      const served = new Served();
      served.onOpen = (stream) => void stream.send({ type: 'hello' });
      const { address } = await server.serve('a', served.handler);
      const sink = new Recorder();
      const stream = client.open(address, open(), sink);
      assert.equal(sink.messages.length + served.opens.length, 0);
      stream.send({ type: 'x' });
      assert.equal(served.opens.length, 0);
      await pace.until('both messages', () => sink.messages.length === 1 && served.sinks[0]?.messages.length === 1);
    }),
    rule('open: an unreachable address arrives at closed, retryable', async ({ client, pace }) => {
      const sink = new Recorder();
      const stream = client.open(unreachable, open(), sink);
      stream.send({ type: 'into nothing' });
      await pace.until('closed', () => sink.isClosed);
      assert.equal(sink.closes[0]?.code, 'PLANE_UNREACHABLE');
      assert.equal(sink.closes[0]?.retryable, true);
    }),
    rule('open: a handler that refuses gives its own code to the caller', async ({ server, client, pace }) => {
      const { address } = await server.serve('a', () => {
        throw new ArmatureError('WORKER_BUSY', 'no room', { hint: 'later', retryable: true });
      });
      const sink = new Recorder();
      client.open(address, open(), sink);
      await pace.until('closed', () => sink.isClosed);
      assertSame(sink.closes, [{ code: 'WORKER_BUSY', message: 'no room', hint: 'later', retryable: true }], 'closed');
    }),
    rule('open: a handler that throws anything else does not break the plane', async ({ server, client, pace }) => {
      const served = new Served();
      const broken = await server.serve('broken', () => {
        throw new TypeError('oops');
      });
      const { address } = await server.serve('a', served.handler);
      const sink = new Recorder();
      client.open(broken.address, open(), sink);
      await pace.until('closed', () => sink.isClosed);
      assert.equal(sink.closes[0]?.code, 'PLANE_HANDLER_FAILED');
      client.open(address, open(), new Recorder());
      await pace.until('another open', () => served.opens.length === 1);
    }),
    rule('serve: a name is served once', async ({ server }) => {
      await server.serve('a', new Served().handler);
      await assert.rejects(server.serve('a', new Served().handler), (error) => (error as ArmatureError).code === 'PLANE_ENDPOINT_TAKEN');
    }),
  ];
}

function messageRules(rule: Rule): ContractRule[] {
  return [
    rule('messages: order is kept both ways, none is lost', async ({ server, client, pace }) => {
      const served = new Served();
      served.onOpen = (stream) => {
        for (let i = 0; i < 300; i++) stream.send({ type: 'down', i });
      };
      const { address } = await server.serve('a', served.handler);
      const sink = new Recorder();
      const stream = client.open(address, open(), sink);
      for (let i = 0; i < 300; i++) stream.send({ type: 'up', i });
      await pace.until('300 messages each way', () => sink.messages.length >= 300 && (served.sinks[0]?.messages.length ?? 0) >= 300);
      await pace.quiet();
      const order = Array.from({ length: 300 }, (_, i) => i);
      assertSame(sink.messages.map(({ i }) => i), order, 'down');
      assertSame(served.sinks[0]?.messages.map(({ i }) => i), order, 'up');
    }),
    rule('messages: one sent inside a callback does not overtake', async ({ server, client, pace }) => {
      const echo: StreamHandler = (_open, stream) => ({
        message: (message) => {
          stream.send({ type: 'echo', of: message['i'] });
          stream.send({ type: 'echo', of: (message['i'] as number) + 0.5 });
        },
        closed: () => undefined,
      });
      const { address } = await server.serve('a', echo);
      const seen: number[] = [];
      const stream = client.open(address, open(), {
        message: (message) => {
          seen.push(message['of'] as number);
          if (message['of'] === 0) stream.send({ type: 'm', i: 10 });
        },
        closed: () => undefined,
      });
      for (let i = 0; i < 3; i++) stream.send({ type: 'm', i });
      await pace.until('eight echoes', () => seen.length === 8);
      assert.deepEqual(seen, [0, 0.5, 1, 1.5, 2, 2.5, 10, 10.5]);
    }),
    rule('messages: every sort of plain data arrives as it was', async ({ server, client, pace }) => {
      const served = new Served();
      const { address } = await server.serve('a', served.handler);
      const stream = client.open(address, open('m', { type: 'first', ...everySort() }), new Recorder());
      stream.send({ type: 'second', ...everySort() });
      await pace.until('the message', () => served.sinks[0]?.messages.length === 1);
      assertSame(served.opens[0]?.message, { type: 'first', ...everySort() }, 'open');
      assertSame(served.sinks[0]?.messages[0], { type: 'second', ...everySort() }, 'message');
    }),
    rule('messages: what the sender does to its columns afterwards is not seen', async ({ server, client, pace }) => {
      const served = new Served();
      const { address } = await server.serve('a', served.handler);
      const stream = client.open(address, open(), new Recorder());
      const column = Int32Array.of(1, 2, 3);
      stream.send({ type: 'm', column });
      column[0] = 99;
      await pace.until('the message', () => served.sinks[0]?.messages.length === 1);
      assertSame(served.sinks[0]?.messages[0]?.['column'], Int32Array.of(1, 2, 3), 'column');
    }),
    rule('messages: many streams do not mix (random)', async ({ server, client, pace }) => {
      const echo: StreamHandler = (received, stream) => ({
        message: ({ i }) => {
          stream.send({ type: 'echo', i, id: received.message['id'] });
          if (i === 39) stream.close();
        },
        closed: () => undefined,
      });
      const { address } = await server.serve('a', echo);
      const below = seeded(5);
      const sinks = Array.from({ length: 20 }, () => new Recorder());
      const streams = sinks.map((sink, id) => client.open(address, open('m', { type: 'open', id }), sink));
      const sent = Array.from({ length: 20 }, () => 0);
      while (sent.some((count) => count < 40)) {
        const id = below(20);
        if ((sent[id] as number) < 40) streams[id]?.send({ type: 'm', i: sent[id]++ });
        if (below(50) === 0) await new Promise<void>((resolve) => void setImmediate(resolve));
      }
      await pace.until('every stream closed', () => sinks.every((sink) => sink.isClosed));
      sinks.forEach((sink, id) => {
        assertSame(sink.messages.map((message) => `${message['id']}:${message['i']}`), Array.from({ length: 40 }, (_, i) => `${id}:${i}`), `seed 5, stream ${id}`);
      });
    }),
    rule('messages: a sink that throws ends its own stream only', async ({ server, client, pace }) => {
      const served = new Served();
      const { address } = await server.serve('a', served.handler);
      let closes = 0;
      client.open(address, open(), {
        message: () => {
          throw new Error('sink failed, as the rule wants');
        },
        closed: () => void closes++,
      });
      const healthy = new Recorder();
      client.open(address, open(), healthy);
      await pace.until('both opens', () => served.streams.length === 2);
      for (const stream of served.streams) stream.send({ type: 'm' });
      await pace.until('the healthy stream', () => healthy.messages.length === 1);
      await pace.until('the end of the other', () => closes === 1 && served.sinks[0]?.isClosed === true);
      assert.equal(healthy.isClosed, false);
    }),
  ];
}

function closeRules(rule: Rule): ContractRule[] {
  const bothEnds = async (bench: Bench, end: (caller: PlaneStream, callee: PlaneStream) => void): Promise<[Recorder, Recorder]> => {
    const served = new Served();
    const { address } = await bench.server.serve('a', served.handler);
    const sink = new Recorder();
    const stream = bench.client.open(address, open(), sink);
    await bench.pace.until('the open', () => served.streams.length === 1);
    end(stream, served.streams[0] as PlaneStream);
    await bench.pace.until('closed at both ends', () => sink.isClosed && served.sinks[0]?.isClosed === true);
    await bench.pace.quiet();
    return [sink, served.sinks[0] as Recorder];
  };
  return [
    rule('close: both ends are told once, after the last message', async (bench) => {
      const [caller, callee] = await bothEnds(bench, (stream, other) => {
        other.send({ type: 'down' });
        stream.send({ type: 'up' });
        stream.send({ type: 'last' });
        stream.close();
        stream.close();
        other.close();
      });
      assert.deepEqual(callee.messages.map(({ type }) => type), ['up', 'last']);
      assert.deepEqual([caller.closes, callee.closes, caller.late + callee.late], [[undefined], [undefined], 0]);
    }),
    rule('close: an error of the serving side arrives with code, hint and retryable', async (bench) => {
      const error = { code: 'ENGINE_LOST', message: 'the engine died', hint: 'send it elsewhere', retryable: true };
      const [caller] = await bothEnds(bench, (_stream, other) => {
        other.send({ type: 'partial' });
        other.close(error);
      });
      assertSame([caller.messages, caller.closes], [[{ type: 'partial' }], [error]], 'caller');
    }),
    rule('close: a cancel of the caller reaches the serving side', async (bench) => {
      const [, callee] = await bothEnds(bench, (stream) => stream.close({ code: 'REQUEST_CANCELLED', message: 'client left' }));
      assert.deepEqual(callee.closes.map((error) => error?.code), ['REQUEST_CANCELLED']);
    }),
    rule('close: what is sent afterwards goes nowhere', async (bench) => {
      const [caller, callee] = await bothEnds(bench, (stream, other) => {
        stream.close();
        stream.send({ type: 'late' });
        other.send({ type: 'late from afar' });
        setImmediate(() => {
          stream.send({ type: 'later' });
          other.send({ type: 'later' });
        });
      });
      assert.deepEqual(callee.messages, []);
      assert.deepEqual([caller.late, callee.late], [0, 0]);
    }),
  ];
}

function deadlineRules(rule: Rule): ContractRule[] {
  return [
    rule('deadline: a stream that used up its budget is closed at both ends', async ({ server, client, pace, passTime }) => {
      const served = new Served();
      const { address } = await server.serve('a', served.handler);
      const sink = new Recorder();
      const openedAt = performance.now();
      client.open(address, { ...open(), deadlineMs: 40 }, sink);
      await pace.until('the open', () => served.opens.length === 1);
      const isClosed = sink.isClosed;
      assert.ok(!isClosed || performance.now() - openedAt >= 35, 'closed long before its budget was used up');
      await passTime(80);
      await pace.until('closed at both ends', () => sink.isClosed && served.sinks[0]?.isClosed === true);
      assert.deepEqual([sink.closes[0]?.code, served.sinks[0]?.closes[0]?.code], ['PLANE_DEADLINE_EXCEEDED', 'PLANE_DEADLINE_EXCEEDED']);
    }),
    rule('deadline: a stream that ended in time is not closed again', async ({ server, client, pace, passTime }) => {
      const served = new Served();
      const { address } = await server.serve('a', served.handler);
      const sink = new Recorder();
      client.open(address, { ...open(), deadlineMs: 40 }, sink).close();
      await pace.until('closed', () => sink.isClosed);
      await passTime(80);
      await pace.quiet();
      assert.deepEqual(sink.closes, [undefined]);
    }),
  ];
}

function boundRules(rule: Rule, floodMessages: number): ContractRule[] {
  return [
    rule('bounds: a sender that heeds nothing is told first, then its stream fails', async ({ server, client, pace }) => {
      const served = new Served();
      const { address } = await server.serve('a', served.handler);
      const sink = new Recorder();
      const stream = client.open(address, open(), sink);
      await pace.until('the open', () => served.opens.length === 1);
      let firstRefusal = -1;
      for (let i = 0; i < floodMessages; i++) if (!stream.send({ type: 'flood', i }) && firstRefusal < 0) firstRefusal = i;
      assert.ok(firstRefusal >= 0, 'send never returned false');
      await pace.until('closed at both ends', () => sink.isClosed && served.sinks[0]?.isClosed === true);
      assert.deepEqual([sink.closes.length, sink.closes[0]?.code], [1, 'PLANE_STREAM_OVERFLOW']);
      assert.ok((served.sinks[0]?.messages.length ?? 0) >= firstRefusal, 'messages below the mark were lost');
    }),
  ];
}

function lifecycleRules(rule: Rule): ContractRule[] {
  return [
    rule('lifecycle: a closed endpoint ends its streams as disconnected, and can be served again', async ({ server, client, pace }) => {
      const served = new Served();
      const endpoint = await server.serve('a', served.handler);
      const sink = new Recorder();
      client.open(endpoint.address, open(), sink);
      await pace.until('the open', () => served.opens.length === 1);
      await endpoint.close();
      await endpoint.close();
      await pace.until('closed at both ends', () => sink.isClosed && served.sinks[0]?.isClosed === true);
      assert.deepEqual([sink.closes[0]?.code, sink.closes[0]?.retryable], ['PLANE_DISCONNECTED', true]);
      const after = new Recorder();
      client.open(endpoint.address, open(), after);
      await pace.until('refused', () => after.isClosed);
      assert.equal(after.closes[0]?.retryable, true);
      const again = await server.serve('a', served.handler);
      client.open(again.address, open(), new Recorder());
      await pace.until('the second open', () => served.opens.length === 2);
    }),
    rule('lifecycle: close ends every stream once and is idempotent; later opens are refused by closed', async ({ server, client, pace }) => {
      const served = new Served();
      const { address } = await server.serve('a', served.handler);
      const sinks = Array.from({ length: 5 }, () => new Recorder());
      for (const sink of sinks) client.open(address, open(), sink);
      await pace.until('the opens', () => served.opens.length === 5);
      await server.close?.();
      await server.close?.();
      await pace.until('all closed', () => sinks.every((sink) => sink.isClosed) && served.sinks.every((sink) => sink.isClosed));
      await pace.quiet();
      assert.ok([...sinks, ...served.sinks].every((sink) => sink.closes.length === 1), 'closed more than once');
      const after = new Recorder();
      client.open(address, open(), after);
      await pace.until('refused', () => after.isClosed);
      await assert.rejects(server.serve('b', served.handler));
    }),
  ];
}
