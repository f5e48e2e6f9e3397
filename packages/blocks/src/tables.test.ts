import { ManualClock } from '@armature/contracts/testing/manual-clock';
import { describe, expect, it } from 'vitest';
import { BlockPool } from './block-pool.ts';
import { LeaseTable } from './lease-table.ts';
import { seeded } from './naive-pool.test.support.ts';
import { ReservationTable } from './reservation-table.ts';

describe('leases', () => {
  it('pin until release, which is valid', () => {
    const pool = new BlockPool(4);
    const table = new LeaseTable(pool, new ManualClock());
    const block = pool.allocate();
    const lease = table.grant(Int32Array.of(block));
    pool.release(block);
    expect([pool.usedBlocks, table.size]).toEqual([1, 1]);
    expect(table.release(lease)).toBe('valid');
    expect([pool.usedBlocks, table.size, table.release(lease)]).toEqual([0, 0, 'expired']);
  });

  it('expire on the clock, not before they are armed, later when renewed', async () => {
    const pool = new BlockPool(4);
    const clock = new ManualClock();
    let freed = 0;
    const table = new LeaseTable(pool, clock, () => void freed++);
    const lease = table.grant(Int32Array.of(pool.allocate()));
    await clock.elapse(1e6);
    expect(table.size).toBe(1);
    table.arm(lease, 100);
    await clock.elapse(99);
    expect(table.renew(lease, 100)).toBe(true);
    await clock.elapse(99);
    expect([table.size, table.expired]).toEqual([1, 0]);
    await clock.elapse(1);
    expect([table.size, table.expired, freed, table.renew(lease, 100), table.release(lease)]).toEqual([0, 1, 1, false, 'expired']);
    expect(clock.pendingTimers).toBe(0);
  });
});

describe('leases over registered blocks', () => {
  const build = () => {
    const pool = new BlockPool(3);
    const clock = new ManualClock();
    const table = new LeaseTable(pool, clock);
    const [first, second] = [pool.allocate(), pool.allocate()];
    pool.register(first, 1, 1, 0, 0);
    pool.register(second, 2, 2, 0, 0);
    pool.release(first);
    pool.release(second);
    return { pool, clock, table, first, second };
  };
  const oldest = (pool: BlockPool): number => pool.oldestInactive(1)[0]!;

  it('count as use, or leave the order of eviction as it was', () => {
    const { pool, table, first } = build();
    expect(table.release(table.lend(Int32Array.of(first), 100, false))).toBe('valid');
    expect(oldest(pool)).toBe(1);
    expect(table.release(table.lend(Int32Array.of(first), 100, true))).toBe('valid');
    expect([oldest(pool), pool.usedBlocks]).toEqual([2, 0]);
  });

  it('pin, expire by themselves, and are not valid for a block that turned out wrong', async () => {
    const { pool, clock, table, first, second } = build();
    const lease = table.lend(Int32Array.of(first, second), 100, false);
    expect([pool.allocate() >= 0, pool.allocate()]).toEqual([true, -1]);
    pool.invalidate(second);
    expect(table.release(lease)).toBe('expired');
    table.lend(Int32Array.of(first), 100, true);
    await clock.elapse(100);
    expect([table.size, table.expired, pool.freeBlocks, clock.pendingTimers]).toEqual([0, 1, 2, 0]);
  });
});

describe('reservations', () => {
  it('hold matched and fresh blocks; all or nothing', () => {
    const pool = new BlockPool(4);
    const table = new ReservationTable(pool, { clock: new ManualClock() });
    const block = pool.allocate();
    pool.register(block, 5, 6, 0, 0);
    pool.release(block);
    const hashes = Int32Array.of(5, 6, 7, 8);
    const reservation = table.reserve(hashes, 3, 1000)!;
    expect([reservation.matchedBlocks, reservation.blocks[0], pool.usedBlocks]).toEqual([1, block, 3]);
    expect(table.reserve(hashes, 3, 1000)).toBeUndefined();
    expect([pool.usedBlocks, pool.references(block)]).toEqual([3, 1]);
    expect([table.release(reservation.id), table.release(reservation.id), pool.usedBlocks]).toEqual([true, false, 0]);
  });

  it('time marks and tells, but never frees', async () => {
    const pool = new BlockPool(4);
    const clock = new ManualClock();
    const told: number[] = [];
    const table = new ReservationTable(pool, { clock, onExpired: (id) => void told.push(id) });
    const { id } = table.reserve(new Int32Array(0), 2, 50)!;
    await clock.elapse(1000);
    expect([told, table.expired, table.quarantined, table.size, pool.usedBlocks]).toEqual([[id], 1, 1, 1, 2]);
    table.release(id);
    expect([table.quarantined, pool.usedBlocks]).toEqual([0, 0]);
  });

  it('an adopted reservation is out of the table, its references are not', () => {
    const pool = new BlockPool(4);
    const clock = new ManualClock();
    const table = new ReservationTable(pool, { clock });
    const { id } = table.reserve(new Int32Array(0), 2, 50)!;
    const adopted = table.adopt(id)!;
    expect([table.size, pool.usedBlocks, table.adopt(id), table.release(id), clock.pendingTimers]).toEqual([0, 2, undefined, false, 0]);
    pool.releaseAll(adopted.blocks, 2);
    expect(pool.usedBlocks).toBe(0);
  });
});

for (const seed of [11, 12, 13]) {
  it(`every reference is one lease, reservation or owner; all balance at the end (seed ${seed})`, async () => {
    const next = seeded(seed);
    const clock = new ManualClock();
    const pool = new BlockPool(32);
    const leases = new LeaseTable(pool, clock);
    const reservations = new ReservationTable(pool, { clock });
    const owned: number[] = [];
    const ids = { leases: [] as number[], reservations: [] as number[] };
    for (let step = 0; step < 3000; step++) {
      switch (next(7)) {
        case 0: {
          const block = pool.allocate();
          if (block === -1) break;
          owned.push(block);
          pool.register(block, 1 + next(64), 0, 0, 0);
          break;
        }
        case 1:
          if (owned.length > 0) pool.release(owned.splice(next(owned.length), 1)[0]);
          break;
        case 2:
          if (owned.length > 1 && ids.leases.length < 8) {
            const id = leases.grant(Int32Array.of(owned[0], owned[1]));
            leases.arm(id, 1 + next(20));
            ids.leases.push(id);
          }
          break;
        case 3:
          if (ids.leases.length > 0) leases.release(ids.leases.splice(next(ids.leases.length), 1)[0]);
          break;
        case 4: {
          const hashes = Int32Array.from({ length: 8 }, (_, i) => (i % 2 === 0 ? 1 + next(64) : 0));
          const reservation = reservations.reserve(hashes, 1 + next(6), 1 + next(20));
          if (reservation !== undefined) ids.reservations.push(reservation.id);
          break;
        }
        case 5:
          if (ids.reservations.length > 0) reservations.release(ids.reservations.splice(next(ids.reservations.length), 1)[0]);
          break;
        default:
          await clock.elapse(next(5));
      }
      expect(pool.usedBlocks + pool.freeBlocks).toBe(32);
      expect(reservations.size).toBe(ids.reservations.length);
    }
    process.stdout.write(`tables seed ${seed}: ${leases.expired} leases and ${reservations.expired} reservations expired, ${pool.evictions} evictions\n`);
    expect(Math.min(leases.expired, reservations.expired, pool.evictions)).toBeGreaterThan(10);
    for (const block of owned) pool.release(block);
    for (const id of ids.reservations) reservations.release(id);
    leases.clear();
    expect([pool.usedBlocks, clock.pendingTimers]).toEqual([0, 0]);
  });
}
