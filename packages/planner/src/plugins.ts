import type { PluginDescriptor } from '@armature/contracts';
import { dryRun } from './connectors/dry-run.ts';
import { virtual } from './connectors/virtual.ts';
import { loadPolicy } from './policies/load/plugin.ts';
import { optimizePolicy } from './policies/optimize/plugin.ts';
import { rlPolicy } from './policies/rl/plugin.ts';
import { slaPolicy } from './policies/sla/plugin.ts';

/** The policies and connectors of this package. */
export const plannerPlugins: readonly PluginDescriptor[] = [loadPolicy, slaPolicy, optimizePolicy, rlPolicy, dryRun, virtual] as readonly unknown[] as readonly PluginDescriptor[];
