import { describe, expect, it } from 'vitest';
import { testRandom, workerRecord } from '../test-support/fakes.ts';
import { WorkerTable } from './worker-table.ts';
import type { Charge } from './worker-table.ts';

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
});
