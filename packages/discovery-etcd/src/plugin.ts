import { definePlugin } from '@armature/contracts';
import type { PluginDescriptor } from '@armature/contracts';
import { EtcdDiscovery } from './etcd-discovery.ts';
import type { EtcdDiscoveryConfig } from './options.ts';

const ms = (description: string, byDefault: number, minimum = 1): object => ({ type: 'integer', minimum, description, default: byDefault });
const file = (description: string): object => ({ type: 'string', description, default: '' });

/** `discovery: { use: etcd }`. */
export const etcdDiscovery: PluginDescriptor<'discovery', EtcdDiscoveryConfig> = definePlugin<'discovery', EtcdDiscoveryConfig>({
  kind: 'discovery',
  contract: 'v1',
  name: 'etcd',
  description: 'Who is alive, in etcd: leases, watches without gaps, entries that outlive an outage of etcd.',
  configSchema: {
    type: 'object',
    additionalProperties: false,
    required: ['cluster'],
    properties: {
      endpoints: {
        type: 'array',
        minItems: 1,
        items: { type: 'string', pattern: '^https?://[^/ ]+:[0-9]+$' },
        description: 'Members of the etcd cluster, as http://host:port or https://host:port. One is used at a time; the next one when it fails.',
        default: ['http://127.0.0.1:2379'],
      },
      cluster: { type: 'string', pattern: '^[A-Za-z0-9._-]{1,100}$', description: 'Name of this Armature cluster: the same in all its processes, another one in every other cluster that uses this etcd.' },
      namespace: { type: 'string', description: 'Prefix of all keys; empty = /armature/CLUSTER/. A namespace takes one cluster: another one is refused.', default: '' },
      username: { type: 'string', description: 'User of etcd; empty = none.', default: '' },
      password: { type: 'string', 'x-secret': true, description: 'Password of that user.', default: '' },
      tls: {
        type: 'object',
        additionalProperties: false,
        default: {},
        description: 'For https endpoints.',
        properties: {
          caFile: file('PEM file of the authorities that sign etcd; empty = those of Node.'),
          certFile: file('PEM file of the certificate that this process shows; empty = none.'),
          keyFile: file('PEM file of its private key.'),
          serverName: file('Name in the certificates of etcd; empty = host of the endpoint.'),
        },
      },
      startTimeoutMs: ms('Milliseconds until start fails when no endpoint can be used.', 10_000),
      requestTimeoutMs: ms('Milliseconds of silence after which a request, and with a heartbeat the endpoint, is given up.', 3000, 100),
      operationTimeoutMs: ms('Milliseconds that register, update, close and watch may take, with all their tries.', 10_000, 100),
      heartbeatMs: ms('Milliseconds between checks that the endpoint answers and that the store is still the same.', 2000, 50),
      reconnectMinMs: ms('Shortest pause before the next endpoint is tried; doubles with each failure, half of it is chance.', 100),
      reconnectMaxMs: ms('Longest pause before the next endpoint is tried.', 5000),
      graceMs: ms('Milliseconds after an outage during which removals are held back, so that owners can register again unnoticed.', 15_000, 0),
      restoreJitterMs: ms('An owner whose lease was lost registers again within this time, at a moment of chance.', 500, 0),
      maxValueBytes: { type: 'integer', minimum: 1024, maximum: 1_500_000, description: 'Largest value of an entry, encoded. etcd takes 1.5 MiB per request.', default: 1_048_576 },
    },
  },
  check: (config, report) => {
    const secure = config.endpoints.filter((endpoint) => endpoint.startsWith('https:')).length;
    const hint = 'use https for all endpoints or for none';
    if (secure !== 0 && secure !== config.endpoints.length) report({ path: ['endpoints'], message: 'https and http endpoints are mixed', hint });
    if ((config.tls.certFile === '') !== (config.tls.keyFile === '')) report({ path: ['tls'], message: 'certFile and keyFile belong together, one is missing', hint: 'give both or none' });
    if (secure === 0 && Object.values(config.tls).some((value) => value !== '')) report({ path: ['tls'], message: 'tls files are given, but the endpoints are http', hint: 'write https:// in endpoints' });
    if (config.password !== '' && config.username === '') report({ path: ['username'], message: 'there is a password without a username', hint: 'give username' });
    if (config.reconnectMaxMs < config.reconnectMinMs) report({ path: ['reconnectMaxMs'], message: `reconnectMaxMs ${config.reconnectMaxMs} is below reconnectMinMs ${config.reconnectMinMs}`, hint: 'raise it' });
  },
  create: (config, { baseDir, clock, random, log, metrics, health, codec }) =>
    new EtcdDiscovery({ config, baseDir, clock, random, log, metrics, health, codec }),
});
