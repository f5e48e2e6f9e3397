// A process that owns memory behind the real library and obeys commands; started from the build by two-processes.test.nixl.ts.
import { createHash } from 'node:crypto';
import type { PeerSegment } from '@armature/contracts';
import { realClock } from '@armature/contracts/testing/real-clock';
import { FakeTransferHost } from '@armature/contracts/testing/transfer-transport';
import { recordingLogger } from './fake-nixl.test.support.ts';
import { NixlTransport } from './nixl-transport.ts';

const [incarnation, params] = process.argv.slice(2);
const transport = new NixlTransport({ clock: realClock, log: recordingLogger(), params: JSON.parse(params!) as Record<string, string> });
const host = new FakeTransferHost('owner', incarnation);
const endpoint = await transport.open(host);
const sum = (segment: number): string => createHash('sha256').update(host.segment(segment)!.bytes).digest('hex');
/** Content of segment 1 at the moment of each notification. */
const seen: { payload: number[]; sum: string }[] = [];
host.onNotified = () => void seen.push({ payload: [...host.notifications.at(-1)!.payload], sum: sum(1) });

export type OwnerCommand = { do: 'add'; lengthBytes: number; seed: number } | { do: 'flip'; offset: number } | { do: 'sum' } | { do: 'seen' } | { do: 'close' };

export function pattern(lengthBytes: number, seed: number): Uint8Array {
  const words = new Uint32Array(Math.ceil(lengthBytes / 4));
  for (let i = 0; i < words.length; i++) words[i] = Math.imul(i + seed, 2_654_435_761);
  return new Uint8Array(words.buffer, 0, lengthBytes);
}

async function obey(command: OwnerCommand): Promise<unknown> {
  if (command.do === 'add') {
    const segment = host.add(command.lengthBytes);
    segment.bytes.set(pattern(command.lengthBytes, command.seed));
    endpoint.registered?.(segment);
    return { id: segment.id, kind: segment.kind, lengthBytes: segment.lengthBytes, metadata: endpoint.segmentMetadata?.(segment) } satisfies PeerSegment;
  }
  if (command.do === 'flip') return (host.segment(1)!.bytes[command.offset]! ^= 1);
  if (command.do === 'sum') return sum(1);
  if (command.do === 'seen') return seen.splice(0);
  await endpoint.close();
  return true;
}

process.on('message', (command: OwnerCommand) => void obey(command).then((answer) => process.send!({ answer })));
process.on('disconnect', () => process.exit(0));
process.send!({ answer: { name: 'owner', incarnation, metadata: endpoint.metadata() } });
