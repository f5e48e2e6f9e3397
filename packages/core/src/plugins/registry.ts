import { ArmatureError } from '@armature/contracts';
import type { PluginDescriptor } from '@armature/contracts';

/** Contract versions that this host runs. Each kind has its own number; so far all are at their first. */
const SUPPORTED_CONTRACTS: readonly string[] = ['v1'];

/** Known descriptors by kind and name, each with where it came from. */
export class PluginRegistry {
  readonly #kinds = new Map<string, Map<string, { readonly descriptor: PluginDescriptor; readonly source: string }>>();

  /** Throws `PLUGIN_DUPLICATE`, `PLUGIN_CONTRACT_UNSUPPORTED`, `PLUGIN_INVALID`. */
  add(descriptor: PluginDescriptor, source: string): void {
    const { kind, name } = descriptor;
    if (!SUPPORTED_CONTRACTS.includes(descriptor.contract)) {
      throw new ArmatureError('PLUGIN_CONTRACT_UNSUPPORTED', `plug-in "${name}" of ${source} implements ${kind} ${String(descriptor.contract)}; this host supports ${SUPPORTED_CONTRACTS.join(', ')}`, {
        hint: 'upgrade @armature/core, or install a version of the plug-in that fits',
      });
    }
    if (kind === 'deployment') {
      throw new ArmatureError('PLUGIN_INVALID', `${source} brings a deployment, which is the host's own kind`, { hint: 'remove it from plugins' });
    }
    let names = this.#kinds.get(kind);
    if (names === undefined) this.#kinds.set(kind, (names = new Map()));
    const known = names.get(name);
    if (known !== undefined) {
      // The same object twice is one plug-in reached by two ways, for example a default and a named export.
      if (known.descriptor === descriptor) return;
      throw new ArmatureError('PLUGIN_DUPLICATE', `${kind} "${name}" comes from ${known.source} and from ${source}`, {
        hint: 'remove one of them; a plug-in that is to replace another needs a name of its own',
      });
    }
    names.set(name, { descriptor, source });
  }

  find(kind: string, name: string): PluginDescriptor | undefined {
    return this.#kinds.get(kind)?.get(name)?.descriptor;
  }

  names(kind: string): string[] {
    return [...(this.#kinds.get(kind)?.keys() ?? [])].sort();
  }

  ofKind(kind: string): PluginDescriptor[] {
    return this.names(kind).map((name) => this.find(kind, name) as PluginDescriptor);
  }

  list(): { readonly descriptor: PluginDescriptor; readonly source: string }[] {
    return [...this.#kinds.keys()].sort().flatMap((kind) => this.names(kind).map((name) => this.#kinds.get(kind)?.get(name) as { descriptor: PluginDescriptor; source: string }));
  }
}
