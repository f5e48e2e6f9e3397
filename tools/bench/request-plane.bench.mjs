// CPU per streamed token of the tcp request plane, both ends together, beside the same bytes over a bare socket.
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';

export const description = 'tcp request plane: CPU per streamed token, both ends together';
export const packages = ['serving', 'core'];

const CHILD = fileURLToPath(new URL('./lib/plane-process.mjs', import.meta.url));
const TOKENS = 256;
const ROUNDS = 5;

/** One process of a pair; `ask` waits for its answer. */
class Party {
  constructor(role, kind) {
    this.process = fork(CHILD, [role, kind], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
  }
  async ask(message) {
    this.process.send(message);
    const [answer] = await once(this.process, 'message');
    return answer;
  }
  async hear() {
    const [message] = await once(this.process, 'message');
    return message;
  }
  end() {
    this.process.kill('SIGKILL');
  }
}

/** Median CPU µs per token of both processes, and of each. */
async function measure(kind, streams) {
  const worker = new Party('worker', kind);
  const { address } = await worker.hear();
  const frontend = new Party('frontend', kind);
  await frontend.hear();
  try {
    const samples = [];
    for (let round = 0; round <= ROUNDS; round++) {
      const before = [await worker.ask({ type: 'cpu' }), await frontend.ask({ type: 'cpu' })];
      const { tokens, writes } = await frontend.ask({ type: 'run', address, streams, tokens: TOKENS });
      const after = [await worker.ask({ type: 'cpu' }), await frontend.ask({ type: 'cpu' })];
      if (tokens !== streams * TOKENS) throw new Error(`${tokens} of ${streams * TOKENS} tokens came`);
      const per = after.map(({ cpuUs }, i) => (cpuUs - before[i].cpuUs) / tokens);
      if (round > 0) samples.push({ worker: per[0], frontend: per[1], both: per[0] + per[1], writes });
    }
    samples.sort((a, b) => a.both - b.both);
    return samples[Math.floor(samples.length / 2)];
  } finally {
    worker.end();
    frontend.end();
  }
}

export async function run({ log }) {
  const rows = [];
  for (const streams of [1, 32, 256]) {
    const plane = await measure('plane', streams);
    const bare = await measure('bare', streams);
    log(`${streams} streams: worker ${plane.worker.toFixed(2)} + frontend ${plane.frontend.toFixed(2)} us; a bare socket with the same bytes ${bare.worker.toFixed(2)} + ${bare.frontend.toFixed(2)} us`);
    // One stream alone pays a wake-up of both processes per token, as the bare socket does; the aim is for a worker that is busy.
    rows.push({ name: `request-plane: ${streams} streams`, unit: 'us CPU/token', value: plane.both, limit: bare.both, ...(streams > 1 ? { target: 8 } : {}) });
  }
  return rows;
}
