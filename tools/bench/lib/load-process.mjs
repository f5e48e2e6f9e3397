// The load generator as a process of its own, so that its CPU is not the server's. Jobs come and results go over IPC.
import { benchModel } from './model-folder.mjs';
import { closedLoop, percentile } from './load-client.mjs';
import { chatRequests } from './prompts.mjs';

const { words } = benchModel();

process.on('message', async (job) => {
  try {
    const requests = chatRequests({ ...job, words });
    process.send({ type: 'ready' });
    await new Promise((resolve) => process.once('message', resolve));
    const cpu = process.cpuUsage();
    const result = await closedLoop({ ...job, requests });
    const { user, system } = process.cpuUsage(cpu);
    const { firstByteMs, totalMs, ...counts } = result;
    process.send({
      type: 'result',
      ...counts,
      firstByteP50Ms: percentile(firstByteMs, 0.5),
      firstByteP99Ms: percentile(firstByteMs, 0.99),
      totalP50Ms: percentile(totalMs, 0.5),
      totalP99Ms: percentile(totalMs, 0.99),
      clientCpuUs: user + system,
    });
  } catch (error) {
    process.send({ type: 'failed', message: String(error?.message ?? error) });
  }
});
