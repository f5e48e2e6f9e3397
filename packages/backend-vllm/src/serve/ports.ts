import { createServer } from 'node:net';
import { ArmatureError } from '@armature/contracts';

/** The system's reason why nobody can listen there now; undefined: it is free. */
export function whyTaken(host: string, port: number): Promise<string | undefined> {
  return new Promise((resolve) => {
    const probe = createServer();
    probe.once('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
    probe.listen(port, host, () => probe.close(() => resolve(undefined)));
  });
}

/** Given out by this process: what was free for one server is not given to another that starts beside it. */
const given = new Set<number>();
const MAX_GIVEN = 4096;
const TRIES = 100;

/** A port that nobody listens on now. */
export function freePort(host: string): Promise<number> {
  return freePorts(host, 1);
}

/** The first of `count` neighbouring ports that nobody listens on now. */
export async function freePorts(host: string, count: number): Promise<number> {
  for (let tries = 0; tries < TRIES; tries++) {
    const first = await anyPort(host);
    const run = Array.from({ length: count }, (_, i) => first + i);
    if (first + count > 65_536 || run.some((port) => given.has(port))) continue;
    const reasons = await Promise.all(run.slice(1).map((port) => whyTaken(host, port)));
    if (reasons.some((reason) => reason !== undefined) || run.some((port) => given.has(port))) continue;
    if (given.size > MAX_GIVEN) given.clear();
    for (const port of run) given.add(port);
    return first;
  }
  throw new ArmatureError('VLLM_PORT_TAKEN', `${host} has no ${count} neighbouring ports that are free, after ${TRIES} tries`, { hint: 'write the ports into engine.config.serve' });
}

function anyPort(host: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once('error', reject);
    probe.listen(0, host, () => {
      const address = probe.address();
      probe.close(() => (typeof address === 'object' && address !== null ? resolve(address.port) : reject(new Error('no port'))));
    });
  });
}
