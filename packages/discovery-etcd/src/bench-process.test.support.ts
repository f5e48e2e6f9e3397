import { discovery } from './fixtures.test.support.ts';

// One process of the bench: `workers` registers entries one after the other with a pause, `watcher` tells when it saw each. Times are of this host's one clock.
const [role, endpoint, namespace, count = '0', first = '0', pauseMs = '0'] = process.argv.slice(2) as [string, string, string, string?, string?, string?];
const timeouts = { startTimeoutMs: 60_000, operationTimeoutMs: 60_000, requestTimeoutMs: 20_000, heartbeatMs: 2000 };
const instance = discovery({ endpoints: [endpoint], namespace, ...timeouts });
const now = (): number => performance.timeOrigin + performance.now();
const cpuMs = (): number => process.cpuUsage().user / 1000 + process.cpuUsage().system / 1000;
const value = { model: 'demo', role: 'decode', address: '10.0.0.1:4711', facts: 'x'.repeat(600) };

await instance.start();
if (role === 'watcher') {
  const seen: [string, number][] = [];
  await instance.watch('workers/', { put: ({ key }) => void seen.push([key, now()]), removed: () => undefined });
  const startedCpuMs = cpuMs();
  process.on('message', () => process.send?.({ seen, cpuMs: cpuMs() - startedCpuMs }));
  process.send?.('ready');
} else {
  process.on('message', () => void registerAll());
  process.send?.('ready');
}

async function registerAll(): Promise<void> {
  const startedCpuMs = cpuMs();
  const asked: [string, number][] = [];
  const waits: Promise<unknown>[] = [];
  for (let i = 0; i < Number(count); i++) {
    const key = `workers/demo/${Number(first) + i}`;
    asked.push([key, now()]);
    waits.push(instance.register(key, value));
    if (Number(pauseMs) > 0) await new Promise((resolve) => setTimeout(resolve, Number(pauseMs)));
  }
  await Promise.all(waits);
  process.send?.({ asked, cpuMs: cpuMs() - startedCpuMs });
}
