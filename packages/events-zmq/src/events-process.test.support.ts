// A process with an event plane of its own that obeys its parent; started from the build by two-processes.test.ts.
import type { PlainData } from '@armature/contracts';
import { FakeDiscovery, startPlane } from './testing.test.support.ts';
import type { Counts } from './testing.test.support.ts';
import type { ZmqEventsConfig } from './zmq-events.ts';

export type ProcessCommand =
  | { readonly do: 'entry'; readonly key: string; readonly value: PlainData }
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
  const config = JSON.parse(process.argv[2] ?? '{}') as Partial<ZmqEventsConfig>;
  const discovery = new FakeDiscovery((key, value) => process.send?.({ announced: { key, value } }));
  const plane = await startPlane(discovery, config);
  let received = 0;
  let newest = -1;
  let isOrdered = true;
  const obey = (command: ProcessCommand): unknown => {
    if (command.do === 'entry') discovery[command.value === null ? 'remove' : 'put'](command.key, command.value);
    else if (command.do === 'subscribe') {
      plane.subscribe(command.prefix, (_subject, payload) => {
        const n = (payload as { readonly n: number }).n;
        received++;
        if (n <= newest) isOrdered = false;
        newest = n;
      });
    } else if (command.do === 'publish') for (let n = command.from; n < command.to; n++) plane.publish(command.subject, { n });
    else return { counts: plane.counts, received, newest, isOrdered, peakRssBytes: process.resourceUsage().maxRSS * 1024 } satisfies ProcessReport;
    return undefined;
  };
  process.on('message', (command: ProcessCommand) => process.send?.({ answer: obey(command) ?? null }));
  process.on('disconnect', () => process.exit());
  process.send({ announced: null });
}
