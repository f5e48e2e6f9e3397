import { TransferStatus } from '@armature/contracts';
import type { Clock, TransferPlan, TransferTransport, TransportEndpoint, TransportHost } from '@armature/contracts';
import { MemoryTransport } from '@armature/nixel';
import { Wire } from './network.ts';
import type { LinkModel } from './network.ts';

export interface SimulatedTransportOptions {
  readonly clock: Clock;
  /** The way KV takes from one worker to another (`MODEL/POOL/INDEX`); within a worker: between the engine's memory and the host's. */
  readonly linkOf: (from: string, to: string) => LinkModel;
  /** Bytes that one byte of a simulated arena stands for. */
  readonly scale: (worker: string) => number;
}

/** KV transfers of a simulated cluster: nixel's memory transport, each transfer as late as its link makes it. Reads of one worker share its link. */
export class SimulatedTransport implements TransferTransport {
  readonly name = 'memory';
  readonly supports;
  readonly #options: SimulatedTransportOptions;
  readonly #inner: MemoryTransport;
  readonly #wires = new Map<string, Wire>();
  bytes = 0;

  constructor(options: SimulatedTransportOptions) {
    this.#options = options;
    this.#inner = new MemoryTransport({ clock: options.clock });
    this.supports = this.#inner.supports;
  }

  unavailable(): undefined {
    return undefined;
  }

  async open(host: TransportHost): Promise<TransportEndpoint> {
    const inner = await this.#inner.open(host);
    const delay = (plan: TransferPlan): number => this.#delay(host.agentName, plan);
    return delayed(inner, this.#options.clock, delay);
  }

  #delay(agent: string, plan: TransferPlan): number {
    const here = workerOf(agent);
    const there = workerOf(plan.peer);
    const [from, to] = plan.op === 'read' ? [there, here] : [here, there];
    const bytes = plan.bytes * this.#options.scale(from);
    if (from !== to) this.bytes += bytes;
    const key = from === to ? `${from} local` : from;
    let wire = this.#wires.get(key);
    if (wire === undefined) this.#wires.set(key, (wire = new Wire(this.#options.clock, this.#options.linkOf(from, to))));
    return wire.takes(bytes);
  }
}

function workerOf(agent: string): string {
  const at = agent.lastIndexOf('@');
  return at === -1 ? agent : agent.slice(0, at);
}

/** An endpoint whose transfers begin later; whatever else is asked of it is answered by the inner one. */
function delayed(inner: TransportEndpoint, clock: Clock, delayOf: (plan: TransferPlan) => number): TransportEndpoint {
  /** By our token: how to stop what waits, or the inner token. */
  const waiting = new Map<number, () => void>();
  const running = new Map<number, number>();
  let tokens = 0;
  const begin = (token: number, plan: TransferPlan, notification: Uint8Array | undefined, done: (status: TransferStatus) => void): void => {
    waiting.delete(token);
    const innerToken = inner.post(plan, notification, (status) => {
      running.delete(token);
      done(status);
    });
    if (innerToken !== 0) running.set(token, innerToken);
  };
  const overrides: Partial<TransportEndpoint> = {
    post(plan, notification, done) {
      const token = ++tokens;
      const delayMs = delayOf(plan);
      if (delayMs <= 0) {
        begin(token, plan, notification, done);
        return token;
      }
      const timer = clock.setTimer(delayMs, () => begin(token, plan, notification, done));
      waiting.set(token, () => {
        clock.clearTimer(timer);
        waiting.delete(token);
        done(TransferStatus.Canceled);
      });
      return token;
    },
    cancel(token) {
      waiting.get(token)?.();
      const innerToken = running.get(token);
      if (innerToken !== undefined) inner.cancel(innerToken);
    },
    async close() {
      for (const stop of [...waiting.values()]) stop();
      await inner.close();
    },
  };
  return new Proxy(inner, {
    get(target, name) {
      const own = overrides[name as keyof TransportEndpoint];
      if (own !== undefined) return own;
      const value = target[name as keyof TransportEndpoint];
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}
