import type { EventListener, EventPlane, PlainData } from '@armature/contracts';
import { eventPlaneContract } from '@armature/contracts/testing/event-plane';
import { afterAll, beforeAll, describe, it } from 'vitest';
import { NatsServer, startPlane } from './testing.test.support.ts';
import type { TestPlane } from './testing.test.support.ts';

let server: NatsServer;
beforeAll(async () => void (server = await NatsServer.start()));
afterAll(() => server.kill());
const pace = { waitMs: 20_000, quietMs: 40 };
let roots = 0;
const create = (bufferEvents?: number): Promise<TestPlane> =>
  startPlane({ servers: [server.url], subjectRoot: `root${roots++}`, ...(bufferEvents === undefined ? {} : { bufferEvents }) });

describe('one process', () => {
  eventPlaneContract({ runner: { describe, it }, create: () => create(), createBounded: (buffer) => create(buffer), pace });
});

/** A subscription holds from when the server has it: what the rule publishes waits until then. */
class Publisher implements EventPlane {
  readonly supports = { processes: true } as const;
  readonly real: TestPlane;
  subscriber: TestPlane | undefined;
  #chain: Promise<void> = Promise.resolve();
  constructor(real: TestPlane) {
    this.real = real;
  }
  publish(subject: string, payload: PlainData): void {
    const copy = structuredClone(payload);
    this.#chain = this.#chain.then(() => this.subscriber?.flush()).then(() => this.real.publish(subject, copy));
  }
  subscribe(prefix: string, listener: EventListener): { close(): void } {
    return this.real.subscribe(prefix, listener);
  }
  async close(): Promise<void> {
    await this.#chain;
    await this.real.close();
  }
}
const publishers = new WeakMap<EventPlane, string>();

describe('two ends over a real server', () => {
  eventPlaneContract({
    runner: { describe, it },
    create: async () => {
      const root = `pair${roots++}`;
      const publisher = new Publisher(await startPlane({ servers: [server.url], subjectRoot: root }));
      publishers.set(publisher, root);
      return publisher;
    },
    connect: async (first) => {
      const publisher = first as Publisher;
      publisher.subscriber = await startPlane({ servers: [server.url], subjectRoot: publishers.get(first)! });
      // The server tells its clients of interest at once; a subscriber that has closed is flushed no more.
      const { subscriber } = publisher;
      const close = subscriber.close.bind(subscriber);
      subscriber.close = async () => {
        publisher.subscriber = undefined;
        await close();
      };
      return subscriber;
    },
    pace,
  });
});
