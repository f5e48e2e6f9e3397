import { decode, encode } from './test-codec.test.support.ts';
import type { Clock, Codec } from '@armature/contracts';
import { silentLog } from '../test-support/fakes.ts';
import { TcpRequestPlane } from './tcp-request-plane.ts';
import type { TcpRequestPlaneOptions } from './tcp-request-plane.ts';

export const realClock: Clock = {
  nowMs: () => performance.now(),
  wallMs: () => Date.now(),
  setTimer: (delayMs, callback) => setTimeout(callback, delayMs),
  clearTimer: (timer) => clearTimeout(timer as NodeJS.Timeout),
  defer: (callback) => void setImmediate(callback),
  sleep: (delayMs) => new Promise((resolve) => setTimeout(resolve, delayMs)),
};

export const testCodec: Codec = { encode, decode };

let nodes = 0;

export function makePlane(options: Partial<TcpRequestPlaneOptions> = {}): TcpRequestPlane {
  return new TcpRequestPlane({
    host: '127.0.0.1',
    port: 0,
    advertiseHost: '',
    connect: [],
    bridge: undefined,
    clock: realClock,
    codec: testCodec,
    log: silentLog,
    node: `node-${++nodes}`,
    token: 'secret',
    maxFrameBytes: 1 << 20,
    highWaterBytes: 64 << 10,
    pingIntervalMs: 5000,
    pingDeadlineMs: 15_000,
    connectTimeoutMs: 2000,
    ...options,
  });
}
