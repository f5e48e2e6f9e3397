// The process behind OwnerProcess: owns memory, obeys commands.
import { createHash } from 'node:crypto';
import type { TransferSegment } from '@armature/contracts';
import { realClock } from '@armature/contracts/testing/real-clock';
import { FakeTransferHost, suiteMemoryBytes } from '@armature/contracts/testing/transfer-transport';
import { CmaTransport } from '../cma/cma-transport.ts';
import { createSharedMemory } from '../shm/shared-memory.ts';
import { ShmTransport } from '../shm/shm-transport.ts';
import { held, pattern } from './peer-process.test.support.ts';
import type { OwnerCommand } from './peer-process.test.support.ts';

const [kind, incarnation] = process.argv.slice(2);
const log = { debug: () => undefined, info: () => undefined, warn: () => undefined, error: console.error, child: () => log, isEnabled: () => false };
const options = { clock: realClock, log, token: 'secret', sameUserTrust: true };
const transport = kind === 'cma' ? new CmaTransport(options) : new ShmTransport(options);
const host = new FakeTransferHost('owner', incarnation);
const endpoint = await transport.open(host);
let notifications = 0;
host.onNotified = () => notifications++;

function add(command: Extract<OwnerCommand, { do: 'add' }>): unknown {
  const bytes = suiteMemoryBytes(command.lengthBytes);
  const memory = command.isShared ? createSharedMemory({ name: 'owner', lengthBytes: bytes }) : undefined;
  const buffer = memory?.buffer ?? new ArrayBuffer(bytes);
  const segment: TransferSegment = host.addMemory({ kind: 'dram', bytes: new Uint8Array(buffer, 0, bytes), location: memory?.location() }, command.lengthBytes, command.access);
  segment.bytes.set(pattern(command.lengthBytes, command.seed));
  return { id: segment.id, kind: segment.kind, lengthBytes: segment.lengthBytes, metadata: endpoint.segmentMetadata?.(segment) };
}

function obey(command: OwnerCommand): unknown {
  switch (command.do) {
    case 'add':
      return add(command);
    case 'release': {
      const segment = host.segment(command.segment)!;
      host.segments.delete(command.segment);
      endpoint.deregistered?.(segment);
      return true;
    }
    case 'close-access':
      host.closedSegments.add(command.segment);
      endpoint.accessChanged?.('initiator');
      return true;
    case 'flip': {
      const { bytes } = host.segment(command.segment)!;
      bytes[command.offset] = bytes[command.offset]! ^ 1;
      return true;
    }
    case 'sum':
      return createHash('sha256').update(host.segment(command.segment)!.bytes).digest('hex');
    case 'block': {
      const endMs = performance.now() + command.ms;
      while (performance.now() < endMs);
      return true;
    }
    case 'seen':
      host.assertGuards();
      return { notifications, lost: host.lost.length, ...held() };
  }
}

process.on('message', (command: OwnerCommand) => process.send?.(obey(command)));
process.on('disconnect', () => process.exit(0));
process.send?.({ metadata: endpoint.metadata(), incarnation: host.incarnation });
