export { EtcdDiscovery } from './etcd-discovery.ts';
export type { EtcdDiscoveryConfig, EtcdDiscoveryOptions, EtcdTlsConfig } from './options.ts';
export { etcdDiscovery } from './plugin.ts';
