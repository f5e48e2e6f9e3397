import { ArmatureError } from '@armature/contracts';

/** Where a cluster's keys lie: `NAMESPACE cluster` is the cluster record, `NAMESPACE entries/KEY` an entry. */
export class KeySpace {
  readonly cluster: Buffer;
  readonly #entries: Buffer;

  /** `namespace` ends with a slash. */
  constructor(namespace: string) {
    this.cluster = Buffer.from(`${namespace}cluster`);
    this.#entries = Buffer.from(`${namespace}entries/`);
  }

  entry(key: string): Buffer {
    return Buffer.concat([this.#entries, Buffer.from(key)]);
  }

  /** The discovery key of an etcd key below `entries/`. */
  keyOf(stored: Buffer): string {
    return stored.toString('utf8', this.#entries.length);
  }

  /** Half-open range of all entries whose key starts with `prefix`. */
  range(prefix: string): { readonly key: Buffer; readonly range_end: Buffer } {
    const key = this.entry(prefix);
    return { key, range_end: prefixEnd(key) };
  }
}

/** The first key behind all keys with this prefix: its last byte below 0xff plus one. The prefix is not empty and not all 0xff. */
export function prefixEnd(prefix: Buffer): Buffer {
  let length = prefix.length;
  while (length > 1 && prefix[length - 1] === 0xff) length--;
  const end = Buffer.from(prefix.subarray(0, length));
  end[length - 1] = (end[length - 1] as number) + 1;
  return end;
}

/** `/armature/CLUSTER/` unless the configuration names one; always ends with a slash. */
export function namespaceOf(namespace: string, cluster: string): string {
  if (namespace === '') return `/armature/${cluster}/`;
  return namespace.endsWith('/') ? namespace : `${namespace}/`;
}

/** Throws `DISCOVERY_KEY_INVALID`. Lone surrogates would become another key in UTF-8. */
export function checkKey(key: string): void {
  if (key !== '' && Buffer.from(key).toString() === key) return;
  throw new ArmatureError('DISCOVERY_KEY_INVALID', `"${key}" cannot be a discovery key`, { hint: 'use a non-empty, slash-separated name such as workers/demo/0' });
}
