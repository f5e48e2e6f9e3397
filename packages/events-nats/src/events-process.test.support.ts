// A process with an event plane of its own that obeys its parent; started from the build by faults.test.nats.ts.
import { startPlane } from './testing.test.support.ts';
import type { Counts } from './testing.test.support.ts';
import type { NatsEventsConfig } from './nats-events.ts';

export type ProcessCommand =
  | { readonly do: 'subscribe'; readonly prefix: string }
  | { readonly do: 'publish'; readonly subject: string; readonly from: number; readonly to: number }
  | { readonly do: 'report' };
export interface ProcessReport {
  readonly counts: Counts;
  readonly received: number;
  readonly newest: number;
  /** False when an event came twice or late. */
  readonly isOrdered: boolean;
  readonly peakRssBytes: number;
}

if (process.send !== undefined) {
  const plane = await startPlane(JSON.parse(process.argv[2] ?? '{}') as Partial<NatsEventsConfig>);
  let received = 0;
  let newest = -1;
  let isOrdered = true;
  const obey = async (command: ProcessCommand): Promise<unknown> => {
    if (command.do === 'subscribe') {
      plane.subscribe(command.prefix, (_subject, payload) => {
        const { n } = payload as { readonly n: number };
        received++;
        if (n <= newest) isOrdered = false;
        newest = n;
      });
      await plane.flush();
    } else if (command.do === 'publish') {
      for (let n = command.from; n < command.to; n++) plane.publish(command.subject, { n });
      await plane.flush();
    } else return { counts: plane.counts, received, newest, isOrdered, peakRssBytes: process.resourceUsage().maxRSS * 1024 } satisfies ProcessReport;
    return undefined;
  };
  process.on('message', (command: ProcessCommand) => void obey(command).then((answer) => process.send?.({ answer: answer ?? null })));
  process.on('disconnect', () => process.exit());
  process.send({ answer: 'ready' });
}
