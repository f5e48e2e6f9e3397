import type { PluginDescriptor } from '@armature/contracts';
import { memoryTransport, tcpTransport } from '@armature/nixel';
import { servingPlugins } from '@armature/serving';

/** The plug-ins that come with `armature`; they use the same door as foreign ones. */
export async function builtins(): Promise<readonly PluginDescriptor[]> {
  return [...servingPlugins, memoryTransport, tcpTransport] as readonly PluginDescriptor[];
}
