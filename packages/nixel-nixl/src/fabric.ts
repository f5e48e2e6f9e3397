import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';

/** What must carry the bytes. `any`: whatever the backend finds best, TCP included. `rdma`: InfiniBand, RoCE or EFA, never TCP. */
export type FabricRequirement = 'any' | 'rdma';

/** RDMA devices with an active port, as the kernel shows them: `mlx5_0:1 (InfiniBand)`, `efa_0:1 (Ethernet)`. */
export function activeRdmaPorts(folder = '/sys/class/infiniband'): readonly string[] {
  const ports: string[] = [];
  for (const device of list(folder)) {
    for (const port of list(path.join(folder, device, 'ports'))) {
      const at = path.join(folder, device, 'ports', port);
      if (read(path.join(at, 'state')).includes('ACTIVE')) ports.push(`${device}:${port} (${read(path.join(at, 'link_layer')) || 'EFA'})`);
    }
  }
  return ports;
}

/**
 * UCX falls back to TCP without a word. `rdma` is kept by taking TCP from it: `UCX_TLS=^tcp`, read by UCX when its first context is made.
 * Returns why that cannot hold, or undefined. Changes `env` only when it can.
 */
export function requireFabric(requirement: FabricRequirement, backend: string, ports: readonly string[], env: Record<string, string | undefined>): string | undefined {
  if (requirement === 'any') return undefined;
  if (ports.length === 0) return 'config.require is "rdma", but this host has no RDMA device with an active port (/sys/class/infiniband); use require: any to allow TCP and shared memory';
  if (backend !== 'UCX') return undefined;
  const tls = env['UCX_TLS'];
  if (tls === undefined || tls === '') {
    env['UCX_TLS'] = '^tcp';
    return undefined;
  }
  const names = tls.replace(/^\^/, '').split(',');
  const hasTcp = tls.startsWith('^') ? !names.includes('tcp') : names.includes('tcp') || names.includes('all');
  return hasTcp ? `config.require is "rdma", but UCX_TLS=${tls} allows tcp; unset it or name transports without tcp` : undefined;
}

function list(folder: string): string[] {
  try {
    return readdirSync(folder).sort();
  } catch {
    return [];
  }
}

function read(file: string): string {
  try {
    return readFileSync(file, 'utf8').trim();
  } catch {
    return '';
  }
}
