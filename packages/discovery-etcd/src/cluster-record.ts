import { randomUUID } from 'node:crypto';
import { CompareResult, CompareTarget } from 'etcd3';
import { ArmatureError } from '@armature/contracts';
import type { EtcdClient } from './etcd-client.ts';

/** What lies at `NAMESPACE cluster`, as JSON so that `etcdctl get` shows it. Written once by the first process, without a lease. */
interface ClusterRecord {
  /** Layout of keys and values below the namespace. */
  readonly format: 1;
  readonly cluster: string;
  /** New whenever the record had to be written: another one means that the store was wiped in between. */
  readonly store: string;
}

export interface StoreState {
  readonly store: string;
  readonly revision: bigint;
}

const FORMAT = 1;

/** Writes the cluster record or agrees with the one that is there. Throws `DISCOVERY_CLUSTER_CONFLICT`. */
export async function joinCluster(client: EtcdClient, key: Buffer, cluster: string): Promise<StoreState> {
  const record: ClusterRecord = { format: FORMAT, cluster, store: randomUUID() };
  const answer = await client.kv.txn({
    compare: [{ key, target: CompareTarget.Mod, result: CompareResult.Equal, mod_revision: '0' }],
    success: [{ request_put: { key, value: Buffer.from(JSON.stringify(record)) } }],
    failure: [{ request_range: { key } }],
  });
  const revision = BigInt(answer.header.revision);
  if (answer.succeeded) return { store: record.store, revision };
  const present = answer.responses[0]?.response_range.kvs[0];
  return { store: agree(present?.value, key, cluster), revision };
}

/** The store as it is now; undefined when the cluster record has gone. One linearizable read: it also proves that etcd has a quorum. */
export async function checkCluster(client: EtcdClient, key: Buffer, cluster: string): Promise<StoreState | undefined> {
  const answer = await client.kv.range({ key });
  const present = answer.kvs[0];
  if (present === undefined) return undefined;
  return { store: agree(present.value, key, cluster), revision: BigInt(answer.header.revision) };
}

function agree(value: Buffer | undefined, key: Buffer, cluster: string): string {
  let found: Partial<ClusterRecord>;
  try {
    found = JSON.parse(String(value)) as Partial<ClusterRecord>;
  } catch {
    found = {};
  }
  if (found.format === FORMAT && found.cluster === cluster && typeof found.store === 'string') return found.store;
  const other = found.cluster === undefined ? 'something else' : found.cluster === cluster ? `format ${String(found.format)} of cluster "${cluster}"` : `cluster "${found.cluster}"`;
  throw new ArmatureError('DISCOVERY_CLUSTER_CONFLICT', `the etcd namespace ${namespaceText(key)} belongs to ${other}, this process is of cluster "${cluster}"`, {
    hint: `give each cluster its own discovery.config.namespace (or the same discovery.config.cluster where they are one); if the other one is gone for good: etcdctl del ${key.toString()}`,
  });
}

function namespaceText(key: Buffer): string {
  return key.toString().slice(0, -'cluster'.length);
}
