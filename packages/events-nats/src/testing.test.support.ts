import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { deserialize, serialize } from 'node:v8';
import type { Codec, Counter, Health, HealthState, Logger, PlainData, Random } from '@armature/contracts';
import { realClock } from '@armature/contracts/testing/real-clock';
import { NatsEvents } from './nats-events.ts';
import type { NatsEventMetrics, NatsEventsConfig, NatsEventsOptions } from './nats-events.ts';
import { natsEvents } from './plugin.ts';

/** Stands for the codec of core, which a plug-in does not see. */
export const testCodec: Codec = {
  encode: (value) => serialize(value),
  decode: (bytes) => deserialize(Uint8Array.from(bytes)) as PlainData,
};
const random: Random = { next: () => 0.5, below: (bound) => bound >> 1, u32: () => 1, fork: () => random };

export interface LogLine {
  readonly level: string;
  readonly message: string;
  readonly fields: Readonly<Record<string, unknown>>;
}
export type Counts = Record<keyof NatsEventMetrics, number>;

/** The defaults of the plug-in's own schema. */
export function defaults(config: Partial<NatsEventsConfig> = {}): NatsEventsConfig {
  const properties = natsEvents.configSchema['properties'] as Record<string, { readonly default?: unknown }>;
  const values = Object.entries(properties).filter(([, schema]) => schema.default !== undefined);
  return { ...(Object.fromEntries(values.map(([name, schema]) => [name, schema.default])) as unknown as NatsEventsConfig), ...config };
}

export interface TestPlane extends NatsEvents {
  readonly counts: Counts;
  readonly lines: readonly LogLine[];
  readonly states: readonly HealthState[];
}

export function newPlane(config: Partial<NatsEventsConfig>, connect?: NatsEventsOptions['connect']): TestPlane {
  const counts: Counts = { published: 0, delivered: 0, dropped: 0, outboxDropped: 0, refused: 0, reconnects: 0 };
  const counter = (name: keyof Counts): Counter => ({ inc: (by = 1) => void (counts[name] += by) });
  const metrics = Object.fromEntries(Object.keys(counts).map((name) => [name, counter(name as keyof Counts)])) as unknown as NatsEventMetrics;
  const lines: LogLine[] = [];
  const line = (level: string) => (message: string, fields: Readonly<Record<string, unknown>> = {}) => void lines.push({ level, message, fields });
  const log: Logger = { debug: line('debug'), info: line('info'), warn: line('warn'), error: line('error'), isEnabled: () => true, child: () => log };
  const states: HealthState[] = [];
  const health: Health = { set: (_component, state) => void states.push(state), remove: () => undefined, report: () => ({ state: 'ready', components: {} }) };
  const plane = new NatsEvents({ config: defaults(config), clock: realClock, random, codec: testCodec, log, health, metrics, ...(connect === undefined ? {} : { connect }) });
  return Object.assign(plane, { counts, lines, states });
}

export async function startPlane(config: Partial<NatsEventsConfig>): Promise<TestPlane> {
  const plane = newPlane(config);
  await plane.start();
  return plane;
}

/** A real nats-server on a port of its own. */
export class NatsServer {
  readonly port: number;
  readonly #words: readonly string[];
  #child: ChildProcess | undefined;

  constructor(port: number, words: readonly string[] = []) {
    this.port = port;
    this.#words = words;
  }

  static async start(...words: string[]): Promise<NatsServer> {
    const server = new NatsServer(await freePort(), words);
    await server.start();
    return server;
  }

  get url(): string {
    return `nats://127.0.0.1:${this.port}`;
  }

  async start(): Promise<void> {
    const binary = process.env['ARMATURE_NATS_SERVER'] ?? 'nats-server';
    const child = spawn(binary, ['-a', '127.0.0.1', '-p', String(this.port), ...this.#words], { stdio: 'ignore' });
    this.#child = child;
    for (let i = 0; !(await answers(this.port)); i++) {
      if (i > 400 || child.exitCode !== null) throw new Error(`nats-server did not start (exit ${child.exitCode})`);
      await new Promise((resolve) => void setTimeout(resolve, 25));
    }
  }

  signal(name: NodeJS.Signals): void {
    this.#child?.kill(name);
  }

  async kill(): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (child === undefined || child.exitCode !== null) return;
    child.kill('SIGCONT');
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
}

async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    socket.once('data', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
    socket.once('close', () => resolve(false));
  });
}

/** Fails with `what` when it does not come true within `waitMs`. */
export async function until(what: string, isTrue: () => boolean, waitMs = 30_000): Promise<void> {
  const giveUpAt = performance.now() + waitMs;
  while (!isTrue()) {
    if (performance.now() > giveUpAt) throw new Error(`did not happen: ${what}`);
    await new Promise((resolve) => void setTimeout(resolve, 5));
  }
}
