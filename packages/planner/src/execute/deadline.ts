import { ArmatureError } from '@armature/contracts';
import type { Clock } from '@armature/contracts';

/** What `started` gives, or `PLANNER_CONNECTOR_SILENT` after `deadlineMs`. A connector that throws at once is one that fails. */
export async function within<T>(clock: Clock, deadlineMs: number, what: string, started: () => Promise<T>): Promise<T> {
  let stop: () => void = () => undefined;
  const late = new Promise<never>((_resolve, reject) => {
    const timer = clock.setTimer(deadlineMs, () => reject(new ArmatureError('PLANNER_CONNECTOR_SILENT', `the scaling connector has not answered ${what} within ${deadlineMs} ms`, { hint: 'look at what it talks to; the order is given again at the next tick', retryable: true })));
    stop = () => clock.clearTimer(timer);
  });
  try {
    return await Promise.race([started(), late]);
  } finally {
    stop();
  }
}
