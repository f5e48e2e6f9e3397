import { openParty } from './party.ts';
import type { Party, TransportName } from './party.ts';

/** What the target says of itself. */
export interface TargetFacts {
  readonly type: 'ready';
  readonly metadata: string;
  readonly agent: string;
  readonly segment: number;
  readonly pid: number;
  /** Of its shared memory, -1 without. */
  readonly fd: number;
}
export interface TargetFailure {
  readonly type: 'failed';
  readonly code: string;
  readonly message: string;
  readonly hint: string | undefined;
}

/** The second process: owns memory, does nothing. Ends with its parent. */
export async function runTarget(name: TransportName, poolBytes: number): Promise<void> {
  let party: Party | undefined;
  const ended = new Promise<void>((resolve) => process.once('disconnect', resolve));
  process.on('message', (message: { readonly type: string; readonly metadata?: string }) => {
    if (message.type === 'peer') party?.agent.addPeer(Buffer.from(message.metadata ?? '', 'base64'));
    if (message.type === 'peer') process.send?.({ type: 'met' });
  });
  try {
    party = await openParty('target', name, poolBytes);
    const { agent, segment, memory } = party;
    const facts: TargetFacts = { type: 'ready', metadata: Buffer.from(agent.metadata()).toString('base64'), agent: agent.name, segment: segment.id, pid: process.pid, fd: memory?.fd ?? -1 };
    process.send?.(facts);
  } catch (error) {
    const { code = 'INTERNAL', message, hint } = error as { code?: string; message: string; hint?: string };
    const failure: TargetFailure = { type: 'failed', code, message, hint };
    process.send?.(failure);
  }
  await ended;
  await party?.close();
}
