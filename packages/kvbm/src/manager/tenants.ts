import { KvBlockStatus } from '@armature/contracts';
import type { KvBlockBatch } from '@armature/contracts';
import { U64Map } from '@armature/tokens';

/** Numbers given out; salts beyond share the last one. */
const MAX_TENANTS = 4_096;

/** Tenants by cache salt, as the small numbers that tiers count by; 0 is the empty salt. Numbers live as long as the manager. */
export class Tenants {
  readonly #quotas: Readonly<Record<string, number>>;
  readonly #numbers = new Map<string, number>([['', 0]]);
  readonly #salts: string[] = [''];

  constructor(quotas: Readonly<Record<string, number>>) {
    this.#quotas = quotas;
  }

  numberOf(salt: string): number {
    const known = this.#numbers.get(salt);
    if (known !== undefined) return known;
    if (this.#salts.length === MAX_TENANTS) return MAX_TENANTS - 1;
    const number = this.#salts.push(salt) - 1;
    this.#numbers.set(salt, number);
    return number;
  }

  /** Blocks that a tenant may hold in a tier of `places`; at least one. */
  quota(tenant: number, places: number): number {
    const salt = this.#salts[tenant] ?? '';
    const share = (Object.hasOwn(this.#quotas, salt) ? this.#quotas[salt] : this.#quotas['default']) ?? 1;
    return share >= 1 ? places : Math.max(1, Math.floor(share * places));
  }
}

/** Whose the blocks of one tier are. Only tenants with a salt take room; as many entries as the tier has blocks. */
export class BlockOwners {
  readonly #tenants = new U64Map();

  of(lo: number, hi: number): number {
    return Math.max(0, this.#tenants.get(lo, hi));
  }

  stored(lo: number, hi: number, tenant: number): void {
    if (tenant !== 0) this.#tenants.set(lo, hi, tenant);
    else if (this.#tenants.size > 0) this.#tenants.delete(lo, hi);
  }

  /** The rows that were taken. */
  storedRows({ count, hashes, statuses, tenant }: KvBlockBatch): void {
    for (let row = 0; row < count; row++) if (statuses[row] === KvBlockStatus.Done) this.stored(hashes[2 * row], hashes[2 * row + 1], tenant);
  }

  removed(hashes: Int32Array, count: number): void {
    if (this.#tenants.size === 0) return;
    for (let row = 0; row < count; row++) this.#tenants.delete(hashes[2 * row], hashes[2 * row + 1]);
  }

  clear(): void {
    this.#tenants.clear();
  }
}
