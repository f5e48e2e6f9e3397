import { definePlugin } from '@armature/contracts';
import type { Deployment, PluginDescriptor } from '@armature/contracts';
import { deploymentSchema } from '../deployment/schema.ts';
import type { DeploymentConfig } from '../deployment/schema.ts';
import { ClusterControl } from './cluster-control.ts';
import { roleMinimum } from './minimum.ts';

/** A deployment of nothing: the planes of a file, and orders to the workers that are on them. */
export interface ControlDeployment extends Deployment {
  readonly control: ClusterControl;
}

/** Root of `armature role` and `armature workers`: reads the same file, opens no model. */
export const controlDeployment = definePlugin<'deployment', DeploymentConfig>({
  kind: 'deployment',
  contract: 'v1',
  name: 'control',
  description: 'Orders to the workers of a running cluster.',
  configSchema: deploymentSchema,
  create: (config, context): ControlDeployment => ({
    control: new ClusterControl({
      discovery: context.instance(config.discovery),
      requests: context.instance(config.requests),
      clock: context.clock,
      minimum: (model, leg) => roleMinimum(config.models.find(({ name }) => name === model)?.workers ?? [], leg),
    }),
    start: async () => undefined,
    summary: () => ({ url: undefined, adminUrl: undefined, models: [] }),
  }),
}) satisfies PluginDescriptor<'deployment', DeploymentConfig>;
