import type { WorkerRecord, WorkerRole } from '@armature/contracts';
import { describe, expect, it } from 'vitest';
import { testRandom, workerRecord } from '../test-support/fakes.ts';
import { WorkerTable } from './worker-table.ts';
import type { CandidateWishes, Charge } from './worker-table.ts';

describe('WorkerTable', () => {
  it('reuses slots and voids charges of workers that left', () => {
    const table = new WorkerTable();
    const slot = table.add(workerRecord('a/0', 'both'));
    const charge = table.charge(slot, 100, 25);
    table.remove('a/0@1');
    expect(table.add(workerRecord('b/0', 'both'))).toBe(slot);
    table.discharge(charge);
    expect(table.load(slot)).toEqual({ requests: 0, prefillTokens: 0, blocks: 0 });
    expect(table.isLive(charge)).toBe(false);
  });

  it('balances against a naive model (seed 7)', () => {
    const random = testRandom(7);
    const table = new WorkerTable();
    const live = new Map<string, number>();
    let charges: { charge: Charge; worker: string }[] = [];
    let next = 0;
    for (let step = 0; step < 5_000; step++) {
      const dice = random.below(10);
      const names = [...live.keys()];
      if (dice < 2 && live.size < 40) {
        const name = `w/${next++}`;
        live.set(`${name}@1`, table.add(workerRecord(name, 'both')));
      } else if (dice === 2 && names.length > 0) {
        const name = names[random.below(names.length)] as string;
        table.remove(name);
        live.delete(name);
        charges = charges.filter((entry) => entry.worker !== name);
      } else if (dice < 7 && names.length > 0) {
        const worker = names[random.below(names.length)] as string;
        charges.push({ charge: table.charge(live.get(worker) as number, random.below(1000), random.below(64)), worker });
      } else if (charges.length > 0) {
        const at = random.below(charges.length);
        const entry = charges[at] as { charge: Charge; worker: string };
        if (dice === 7) table.prefilled(entry.charge);
        else if (dice === 8) table.grow(entry.charge, 1);
        else {
          table.discharge(entry.charge);
          charges.splice(at, 1);
        }
      }
    }
    expect(live.size).toBeGreaterThan(0);
    for (const [worker, slot] of live) {
      const own = charges.filter((entry) => entry.worker === worker).map((entry) => entry.charge);
      expect(table.load(slot)).toEqual({
        requests: own.length,
        prefillTokens: own.reduce((sum, charge) => sum + charge.prefillTokens, 0),
        blocks: own.reduce((sum, charge) => sum + charge.blocks, 0),
      });
    }
  });

  it.each([1, 2, 3, 4])('knows who is eligible as well as a look at everybody does (seed %i)', (seed) => {
    const { compared, partial } = membershipHistory(seed, new WorkerTable());
    expect(compared).toBeGreaterThan(1_000);
    expect(partial).toBeGreaterThan(300);
  });

  it('sabotage: a table that forgets that a worker answers again is seen', () => {
    const forgetful = new WorkerTable();
    const setInhibited = forgetful.setInhibited.bind(forgetful);
    forgetful.setInhibited = (slot, isInhibited) => (isInhibited ? setInhibited(slot, true) : undefined);
    expect(() => membershipHistory(1, forgetful)).toThrow(/seed 1, step/);
  });

  it('a worker of a role of a later version is kept, and a candidate for nobody', () => {
    const table = new WorkerTable();
    const slot = table.add(workerRecord('e/0', 'encode' as WorkerRole));
    expect(['both', 'prefill', 'decode'].some((role) => table.hasRole(role as WorkerRole))).toBe(false);
    expect(table.candidates('both', []).count).toBe(0);
    expect(table.remove('e/0@1')).toBe(slot);
  });
});

const ROLES = ['both', 'prefill', 'decode'] as const;
type Naive = Map<string, { slot: number; record: WorkerRecord; inhibited: boolean; degraded: boolean }>;
type Below = (bound: number) => number;

/** Workers come, go, fall silent and answer again; after each step the table is compared with a list of all workers. */
function membershipHistory(seed: number, table: WorkerTable): { compared: number; partial: number } {
  const random = testRandom(seed);
  const below: Below = (bound) => random.below(bound);
  const live: Naive = new Map();
  let [next, compared, partial] = [0, 0, 0];
  for (let step = 0; step < 1_500; step++) {
    const names = [...live.keys()];
    const name = names[below(Math.max(1, names.length))];
    const dice = below(8);
    if (dice < 3 && live.size < 60) {
      const record = randomWorker(`w/${next++}`, below);
      live.set(record.instanceId, { slot: table.add(record), record, inhibited: false, degraded: false });
    } else if (name === undefined) continue;
    else if (dice === 3) {
      expect(table.remove(name)).toBe(live.get(name)?.slot);
      live.delete(name);
    } else if (dice < 6) {
      const worker = live.get(name)!;
      worker.inhibited = below(2) === 0;
      table.setInhibited(worker.slot, worker.inhibited);
    } else if (dice === 6) {
      const worker = live.get(name)!;
      worker.degraded = !worker.degraded;
      table.setDegraded(worker.slot, worker.degraded);
    } else table.charge(live.get(name)!.slot, below(1_000), below(64));
    const wishes = below(3) === 0 ? randomWishes(names, below) : {};
    const excluded = below(4) === 0 ? names.filter(() => below(5) === 0) : [];
    if (excluded.length > 0 || Object.keys(wishes).length > 0) partial++;
    compare(table, live, { role: ROLES[below(3)]!, wishes, excluded, where: `seed ${seed}, step ${step}` });
    compared++;
  }
  return { compared, partial };
}

function randomWorker(name: string, below: Below): WorkerRecord {
  const adapters = below(2) === 0 ? {} : { adapters: ['lora'] };
  return workerRecord(name, ROLES[below(3)]!, { dpRank: below(3), taints: below(2) === 0 ? [] : ['fast'], totalBlocks: below(5_000), costPerHour: below(9), maxModelTokens: 100 + below(900), ...adapters });
}

function randomWishes(names: readonly string[], below: Below): CandidateWishes {
  return [{ only: names[below(names.length)] }, { dpRank: below(3) }, { taints: ['fast'] }, { adapter: 'lora' }, { adapter: 'lora', dpRank: 1 }][below(5)]!;
}

function leastOf(numbers: readonly number[]): number {
  return numbers.length === 0 ? 0 : Math.min(...numbers);
}

interface Question {
  readonly role: WorkerRole;
  readonly wishes: CandidateWishes;
  readonly excluded: readonly string[];
  readonly where: string;
}

function compare(table: WorkerTable, live: Naive, { role, wishes, excluded, where }: Question): void {
  const all = [...live.values()].sort((a, b) => a.slot - b.slot);
  const ofRole = all.filter(({ record }) => record.role === role);
  const free = ofRole.filter(({ inhibited }) => !inhibited);
  const { only, dpRank, taints = [], adapter } = wishes;
  const hasAdapter = ({ record }: { record: WorkerRecord }): boolean => adapter === undefined || record.adapters?.includes(adapter) === true;
  const isOpen = ({ record }: { record: WorkerRecord }): boolean => !excluded.includes(record.instanceId);
  const expected = free.filter((worker) => hasAdapter(worker) && (only === undefined ? isOpen(worker) : worker.record.instanceId === only))
    .filter(({ record }) => (dpRank === undefined || record.dpRank === dpRank) && taints.every((taint) => record.taints.includes(taint)));
  const columns = table.candidates(role, excluded, wishes);
  const seen = Array.from({ length: columns.count }, (_, i) => ({
    slot: columns.slots[i],
    worker: columns.workers[i]?.instanceId,
    load: { requests: columns.activeRequests[i], prefillTokens: columns.activePrefillTokens[i], blocks: columns.activeBlocks[i] },
    totalBlocks: columns.totalBlocks[i],
    costPerHour: columns.costPerHour[i],
    degraded: columns.degraded[i],
  }));
  expect(seen, where).toEqual(
    expected.map(({ slot, record, degraded }) => ({ slot, worker: record.instanceId, load: table.load(slot), totalBlocks: record.totalBlocks, costPerHour: record.costPerHour, degraded: degraded ? 1 : 0 })),
  );
  expect(columns.workers.length, where).toBe(expected.length);
  expect(table.hasRole(role), where).toBe(ofRole.length > 0);
  expect(table.count(role, excluded, adapter), where).toBe(free.filter((worker) => hasAdapter(worker) && isOpen(worker)).length);
  expect(table.leastPrefillTokens(role, adapter), where).toBe(leastOf(free.filter(hasAdapter).map(({ slot }) => table.load(slot).prefillTokens)));
  expect(table.leastModelTokens, where).toBe(Math.min(...all.map(({ record }) => record.maxModelTokens)));
  expect(table.inhibitedWorkers, where).toBe(all.filter(({ inhibited }) => inhibited).length);
}
