import { afterAll, beforeAll, describe, it } from 'vitest';
import { discoveryContract } from '@armature/contracts/testing/discovery';
import type { EtcdDiscovery } from './etcd-discovery.ts';
import { EtcdServer } from './etcd-server.test.support.ts';
import { discovery, freshNamespace, made } from './fixtures.test.support.ts';

let server: EtcdServer;
beforeAll(async () => {
  server = await EtcdServer.make();
});
afterAll(() => server.remove());

const create = async (namespace = freshNamespace()): Promise<EtcdDiscovery> => {
  const instance = discovery({ endpoints: [server.endpoint], namespace });
  await instance.start();
  return instance;
};

describe('etcd, owner and reader apart', () => {
  discoveryContract({
    runner: { describe, it },
    create: () => create(),
    connect: (first) => create(made.get(first as EtcdDiscovery)?.config.namespace),
    pace: { waitMs: 20_000, quietMs: 150 },
  });
});

describe('etcd, one client for both', () => {
  discoveryContract({ runner: { describe, it }, create: () => create(), pace: { waitMs: 20_000, quietMs: 150 } });
});
