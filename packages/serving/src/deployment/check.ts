import type { ConfigReport, PlainData } from '@armature/contracts';
import { checkQueue } from '../admission/config.ts';
import { checkPlanner } from './planner-schema.ts';
import type { DeploymentConfig, KvbmConfig, ModelConfig } from './schema.ts';

/** Problems of a deployment that a schema cannot say. */
export function checkDeployment(config: DeploymentConfig, report: ConfigReport): void {
  checkPlanner(config, report);
  const names = new Set<string>();
  config.models.forEach((model, i) => {
    if (names.has(model.name)) duplicate(report, ['models', i, 'name'], `model "${model.name}"`);
    names.add(model.name);
    model.adapters.forEach((adapter, j) => {
      if (names.has(adapter)) duplicate(report, ['models', i, 'adapters', j], `adapter "${adapter}" (or a model)`);
      names.add(adapter);
    });
    checkWorkers(config, model, ['models', i, 'workers'], report);
    checkQueue(model.queue, ['models', i, 'queue'], report);
  });
}

function duplicate(report: ConfigReport, path: readonly (string | number)[], what: string): void {
  report({ path, code: 'CONFIG_DUPLICATE_NAME', message: `${what} is named twice`, hint: 'give each its own name' });
}

function checkWorkers(config: DeploymentConfig, model: ModelConfig, path: readonly (string | number)[], report: ConfigReport): void {
  const pools = new Set<string>();
  model.workers.forEach((worker, j) => {
    if (pools.has(worker.name)) duplicate(report, [...path, j, 'name'], `worker pool "${worker.name}"`);
    pools.add(worker.name);
    if (worker.kvbm !== undefined) checkTiers(worker.kvbm.tiers, [...path, j, 'kvbm', 'tiers'], report);
    if (worker.hardware !== 'default' && config.hardware[worker.hardware] === undefined) {
      report({
        path: [...path, j, 'hardware'],
        code: 'CONFIG_UNKNOWN_HARDWARE',
        message: `hardware profile "${worker.hardware}" is not defined`,
        hint: `define it under the top-level key hardware (there: ${Object.keys(config.hardware).join(', ') || 'none'})`,
      });
    }
  });
  const roles = new Set(model.workers.filter((worker) => worker.replicas > 0).map((worker) => worker.role));
  if (roles.has('both') && roles.size > 1) {
    report({ path, code: 'CONFIG_ROLES_MIXED', message: 'workers with role both stand beside prefill or decode workers', hint: 'use either role both, or prefill and decode' });
  }
  const isAlone = config.frontend !== undefined && config.requests.use === 'memory';
  if (isAlone && roles.has('prefill') !== roles.has('decode')) {
    const missing = roles.has('prefill') ? 'decode' : 'prefill';
    report({ path, code: 'CONFIG_ROLE_MISSING', message: `there are no ${missing} workers, and with requests: memory none can join`, hint: `add a pool with role: ${missing}` });
  }
}

/** As far as the tiers' descriptors say which tier each is and how large; the block manager checks again with what it opened. */
function checkTiers(tiers: KvbmConfig['tiers'], path: readonly (string | number)[], report: ConfigReport): void {
  let above: { readonly tier: PlainData; readonly bytes: number } | undefined;
  tiers.forEach(({ facts }, i) => {
    if (facts === undefined) return;
    const { tier, capacityBytes: bytes } = facts;
    if ((tier === 'host') !== (i === 0)) {
      const message = i === 0 ? `the first tier is ${String(tier)}; blocks come to the engine through host memory` : 'host memory is the first tier, and there is one';
      report({ path: [...path, i], code: 'CONFIG_TIER_ORDER', message, hint: 'list the tiers from the fastest to the slowest: host, then disk, then object' });
      return;
    }
    if (typeof bytes !== 'number') return;
    if (above !== undefined && bytes < above.bytes) {
      const message = `the ${String(tier)} tier has ${bytes} bytes, less than the ${String(above.tier)} tier above it (${above.bytes})`;
      report({ path: [...path, i], code: 'CONFIG_TIER_SMALLER', message, hint: 'it would only hold copies: give it more, or leave it out' });
    }
    above = { tier, bytes };
  });
}
