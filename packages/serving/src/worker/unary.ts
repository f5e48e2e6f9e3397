import type { PlaneMessage, RequestPlane, StreamOpen } from '@armature/contracts';

/** One message there, one back. `done` comes exactly once; undefined when there was no answer. */
export function callUnary(requests: RequestPlane, address: string, open: StreamOpen, done: (answer: PlaneMessage | undefined) => void): void {
  let reply: PlaneMessage | undefined;
  requests.open(address, open, {
    message: (message) => {
      reply = message;
    },
    closed: (error) => done(error === undefined ? reply : undefined),
  });
}
