import { fork } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ArmatureError } from '@armature/contracts';
import { openFile } from '@armature/nixel';
import { CopyLimit } from './copy-limit.ts';
import type { Stage } from './measure.ts';
import { openParty } from './party.ts';
import type { TransportName } from './party.ts';
import type { TargetFacts, TargetFailure } from './target.ts';

const START_TIMEOUT_MS = 20_000;

/** Throws `TRANSFER_NO_TRANSPORT`, `NIXELBENCH_TARGET_FAILED`. */
export function openStage(transport: TransportName, poolBytes: number, folder: string | undefined): Promise<Stage> {
  if (transport === 'memory') return openOwnMemory(poolBytes);
  return transport === 'file' ? openOwnFile(poolBytes, folder ?? tmpdir()) : openPair(transport, poolBytes);
}

/** Initiator here, target in a process of its own. */
async function openPair(transport: TransportName, poolBytes: number): Promise<Stage> {
  const initiator = await openParty('initiator', transport, poolBytes);
  const bin = fileURLToPath(new URL('../../../bin/armature.js', import.meta.url));
  const child = fork(bin, ['nixelbench', '--role', 'target', '--transport', transport, '--pool', String(poolBytes)], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
  const close = async (): Promise<void> => {
    await initiator.close();
    if (child.connected) child.disconnect();
  };
  try {
    const facts = await hear<TargetFacts | TargetFailure>(child);
    if (facts.type === 'failed') throw new ArmatureError('NIXELBENCH_TARGET_FAILED', `the target process failed: ${facts.message}`, { hint: facts.hint ?? facts.code });
    initiator.agent.addPeer(Buffer.from(facts.metadata, 'base64'));
    child.send({ type: 'peer', metadata: Buffer.from(initiator.agent.metadata()).toString('base64') });
    await hear(child);
    const limit = CopyLimit.open(initiator.segment.bytes, facts.fd >= 0 ? facts : undefined);
    return { transport, initiator, peer: facts.agent, segment: facts.segment, limit, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** From memory to memory of one agent. */
async function openOwnMemory(poolBytes: number): Promise<Stage> {
  const initiator = await openParty('initiator', 'memory', poolBytes);
  const other = initiator.agent.register({ buffer: new ArrayBuffer(poolBytes) });
  other.bytes.fill(7);
  return { transport: 'memory', initiator, peer: initiator.agent.name, segment: other.id, limit: CopyLimit.open(initiator.segment.bytes, undefined), close: () => initiator.close() };
}

/** From memory to a file of one agent, in a folder that is removed afterwards. */
async function openOwnFile(poolBytes: number, parent: string): Promise<Stage> {
  const folder = await mkdtemp(join(parent, 'nixelbench-'));
  try {
    const initiator = await openParty('initiator', 'file', poolBytes);
    const file = await openFile({ path: join(folder, 'blocks'), lengthBytes: poolBytes, mode: 'create' });
    const segment = initiator.agent.register({ location: file.location, lengthBytes: poolBytes });
    const close = async (): Promise<void> => {
      await initiator.close();
      await file.close();
      await rm(folder, { recursive: true, force: true });
    };
    return { transport: file.location.direct ? 'file' : 'file (page cache)', initiator, peer: initiator.agent.name, segment: segment.id, limit: CopyLimit.open(initiator.segment.bytes, undefined), close };
  } catch (error) {
    await rm(folder, { recursive: true, force: true });
    throw error;
  }
}

async function hear<T>(child: ChildProcess): Promise<T> {
  const signal = AbortSignal.timeout(START_TIMEOUT_MS);
  const ended = once(child, 'exit', { signal }).then(() => [{ type: 'failed', code: 'EXIT', message: 'it ended' }]);
  const silent = [{ type: 'failed', code: 'TIMEOUT', message: `it said nothing for ${START_TIMEOUT_MS / 1000} s` }];
  const [message] = (await Promise.race([once(child, 'message', { signal }), ended]).catch(() => silent)) as [T];
  return message;
}
