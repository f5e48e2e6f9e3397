import { definePlugin } from '@armature/contracts';
import type { PluginDescriptor } from '@armature/contracts';
import { checkDeployment } from './deployment/check.ts';
import { ServingDeployment } from './deployment/deployment.ts';
import { deploymentSchema } from './deployment/schema.ts';
import type { DeploymentConfig } from './deployment/schema.ts';
import { always, conditional, never } from './policies/disaggregation.ts';
import { predicted } from './policies/predicted.ts';
import { selection } from './selection/plugin.ts';
import { tcpRequestPlane } from './tcp-plane/index.ts';

/** The composition root of `armature serve`. */
export const deployment = definePlugin<'deployment', DeploymentConfig>({
  kind: 'deployment',
  contract: 'v1',
  name: 'serving',
  description: 'Models, workers, routing and disaggregation wired from one YAML.',
  configSchema: deploymentSchema,
  check: checkDeployment,
  create: (config, context) => new ServingDeployment(config, context),
});

/** Plug-ins of this package other than the deployment. */
export const servingPlugins: readonly PluginDescriptor[] = [always, never, conditional, predicted, tcpRequestPlane, selection] as readonly unknown[] as readonly PluginDescriptor[];
