import { saltHash } from '@armature/tokens';
import type { SaltHash } from '@armature/tokens';

export interface Tenant {
  readonly cacheSalt: string;
  readonly hash: SaltHash;
}

/** Salt and adapter of chains, as numbers. A tenant is forgotten with its last block, so that salts made up by clients do not pile up. */
export class Tenants {
  readonly #numbers: Map<string, number>;
  readonly #tenants: (Tenant & { readonly key: string; blocks: number })[];
  readonly #free: number[];

  constructor() {
    this.#numbers = new Map();
    this.#tenants = [];
    this.#free = [];
  }

  get size(): number {
    return this.#numbers.size;
  }

  /** Kept only once it has a block (`added`). */
  numberOf(cacheSalt: string, adapter: string): number {
    const key = `${cacheSalt}\0${adapter}`;
    const known = this.#numbers.get(key);
    if (known !== undefined) return known;
    const number = this.#free.pop() ?? this.#tenants.length;
    this.#tenants[number] = { key, cacheSalt, hash: saltHash({ cacheSalt, lora: adapter }), blocks: 0 };
    this.#numbers.set(key, number);
    return number;
  }

  get(number: number): Tenant {
    return this.#entry(number);
  }

  added(number: number): void {
    if (number >= 0) this.#entry(number).blocks++;
  }

  readonly freed = (number: number): void => {
    if (number < 0) return;
    const entry = this.#entry(number);
    if (--entry.blocks > 0) return;
    this.#numbers.delete(entry.key);
    this.#free.push(number);
  };

  clear(): void {
    this.#numbers.clear();
    this.#tenants.length = 0;
    this.#free.length = 0;
  }

  #entry(number: number): Tenant & { readonly key: string; blocks: number } {
    const entry = this.#tenants[number];
    if (entry === undefined) throw new TypeError(`there is no tenant ${number}`);
    return entry;
  }
}
