import fs from 'node:fs';
import path from 'node:path';
import type { AllocateMemory, SuiteMemory } from '@armature/contracts/testing/transfer-transport';

/** The owner's memory is a file in `folder`, the initiator's is memory. O_DIRECT refuses odd places, so that both ways are used. */
export function suiteFiles(folder: string): AllocateMemory {
  let made = 0;
  return (side, lengthBytes) => (side === 'owner' ? fileMemory(path.join(folder, `suite${made++}`), lengthBytes) : { kind: 'dram', bytes: new Uint8Array(lengthBytes) });
}

function fileMemory(name: string, lengthBytes: number): SuiteMemory {
  const fd = fs.openSync(name, 'w+');
  fs.ftruncateSync(fd, lengthBytes);
  return {
    kind: 'file',
    bytes: new Uint8Array(0),
    location: { type: 'file', path: name, fd, direct: true },
    load: () => {
      const bytes = new Uint8Array(lengthBytes);
      fs.readSync(fd, bytes, 0, lengthBytes, 0);
      return bytes;
    },
    store: (bytes) => void fs.writeSync(fd, bytes, 0, bytes.length, 0),
    release: () => {
      fs.closeSync(fd);
      fs.rmSync(name);
    },
  };
}
