import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { TransferStatus } from '@armature/contracts';
import type { DescriptorColumns, TransferPlan, TransferTransport, TransportEndpoint } from '@armature/contracts';
import { transferTransportRules } from '@armature/contracts/testing/transfer-transport';
import type { AllocateMemory } from '@armature/contracts/testing/transfer-transport';
import { CmaTransport } from './cma/cma-transport.ts';
import { FileTransport } from './file/file-transport.ts';
import { suiteFiles } from './file/suite-files.test.support.ts';
import { suiteSharedMemory } from './shm/shared-suite.test.support.ts';
import { ShmTransport } from './shm/shm-transport.ts';
import { TcpTransport } from './tcp/tcp-transport.ts';
import { realClock, recordingLogger } from './test-clock.test.support.ts';

// Each family of transports, broken in the one way that must never be: the contract suite has to find it. `memory` is in contract.test.ts.

const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'nixel-mutants-'));
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));
const real = { clock: realClock, log: recordingLogger() };

interface Family {
  readonly create: () => TransferTransport;
  readonly allocate?: () => AllocateMemory;
}

const families: Record<string, Family> = {
  tcp: { create: () => new TcpTransport(real) },
  shm: { create: () => new ShmTransport(real), allocate: suiteSharedMemory },
  cma: { create: () => new CmaTransport({ ...real, sameUserTrust: true }) },
  file: { create: () => new FileTransport(real), allocate: () => suiteFiles(folder) },
};

type Done = (status: TransferStatus) => void;
interface Faults {
  post?(endpoint: TransportEndpoint, plan: TransferPlan, notification: Uint8Array | undefined, done: Done): number;
  cancel?(endpoint: TransportEndpoint, token: number): void;
}

function mutant({ create }: Family, faults: () => Faults): () => TransferTransport {
  return () => {
    const inner = create();
    const open: TransferTransport['open'] = async (host) => {
      const endpoint = await inner.open(host);
      const { post, cancel } = faults();
      return new Proxy(endpoint, {
        get(target, name) {
          if (name === 'post' && post !== undefined) return (plan: TransferPlan, notification: Uint8Array | undefined, done: Done) => post(target, plan, notification, done);
          if (name === 'cancel' && cancel !== undefined) return (token: number) => cancel(target, token);
          const value: unknown = Reflect.get(target, name, target);
          return typeof value === 'function' ? (value as (...all: unknown[]) => unknown).bind(target) : value;
        },
      });
    };
    return { name: inner.name, supports: inner.supports, unavailable: () => inner.unavailable(), open };
  };
}

/** Says Canceled at once; `tells`: and asks the transport to stop as well. */
function canceledEarly(tells: boolean): () => Faults {
  return () => {
    const ends = new Map<number, () => void>();
    return {
      post: (endpoint, plan, notification, done) => {
        let hasEnded = false;
        const end = (status: TransferStatus): void => {
          if (!hasEnded) done(status);
          hasEnded = true;
        };
        const token = endpoint.post(plan, notification, end);
        ends.set(token, () => end(TransferStatus.Canceled));
        return token;
      },
      cancel: (endpoint, token) => {
        ends.get(token)?.();
        if (tells) endpoint.cancel(token);
      },
    };
  };
}

const doneEarly = (): Faults => ({
  post: (endpoint, plan, notification, done) => {
    const token = endpoint.post(plan, notification, () => undefined);
    done(TransferStatus.Done);
    return token;
  },
});

const half = (columns: DescriptorColumns): DescriptorColumns => ({ ...columns, count: columns.count >> 1 });
const halfDone = (): Faults => ({
  post: (endpoint, plan, notification, done) => {
    const local = half(plan.local);
    const bytes = local.lengths.subarray(0, local.count).reduce((sum, length) => sum + length, 0);
    return endpoint.post({ op: plan.op, peer: plan.peer, local, remote: half(plan.remote), bytes }, notification, done);
  },
});

/** Whether bytes still land after a false "cancelled" is a race with the kernel: on a busy machine the transfer may be over first. Up to so many tries until all are found. */
const RACE_TRIES = 8;

async function brokenSometimes(family: Parameters<typeof broken>[0], under: Parameters<typeof broken>[1], rules: RegExp, expected: number): Promise<string[]> {
  const found = new Set<string>();
  for (let i = 0; i < RACE_TRIES && found.size < expected; i++) for (const name of await broken(family, under, rules)) found.add(name);
  return [...found].sort();
}

async function broken({ allocate }: Family, create: () => TransferTransport, only: RegExp): Promise<string[]> {
  const failed: string[] = [];
  const memory = allocate?.();
  for (const rule of transferTransportRules({ create, ...(memory === undefined ? {} : { allocate: memory }) }).filter(({ name }) => only.test(name))) {
    try {
      await rule.run();
    } catch {
      failed.push(rule.name);
    }
  }
  return failed;
}

const EQUALITY = 'behaviour: byte equality over random layouts';
const CANCELED_READ = 'failure: no local byte changes after a cancelled read has ended';
const CANCELED_WRITE = 'failure: no remote byte changes after a cancelled write has ended';

for (const [name, family] of Object.entries(families)) {
  const reason = family.create().unavailable();
  if (reason !== undefined) {
    test.skip(`${name} is not available here: ${reason}`, () => undefined);
    continue;
  }
  describe(`${name}: the suite finds`, () => {
    test('nothing where nothing is broken', async () => {
      expect(await broken(family, mutant(family, () => ({})), /cancelled|equality/)).toEqual([]);
    });
    test('Canceled while bytes still land: memory would be used again too early', async () => {
      expect(await brokenSometimes(family, mutant(family, canceledEarly(false)), /cancelled/, 2)).toEqual([CANCELED_READ, CANCELED_WRITE]);
    });
    test('Done before the bytes are here', async () => {
      expect(await broken(family, mutant(family, doneEarly), /equality/)).toEqual([EQUALITY]);
    });
    test('a part reported as the whole', async () => {
      expect(await broken(family, mutant(family, halfDone), /equality/)).toEqual([EQUALITY]);
    });
  });
}

test('tcp: a cancelled write that does not wait for the owner\'s word is found', async () => {
  const tcp = families['tcp']!;
  expect(await brokenSometimes(tcp, mutant(tcp, canceledEarly(true)), /cancelled write/, 1)).toEqual([CANCELED_WRITE]);
});

test('file: a cancel that does not wait for the kernel is found', async () => {
  const file = families['file']!;
  expect(await brokenSometimes(file, mutant(file, canceledEarly(true)), /cancelled/, 1)).not.toEqual([]);
});
