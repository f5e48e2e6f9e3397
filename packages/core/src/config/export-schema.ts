import type { JsonSchema, PluginDescriptor } from '@armature/contracts';
import type { PluginRegistry } from '../plugins/registry.ts';
import { fileSchema, isSchema, mapSchema, replaceSlot } from './schema.ts';

type Schema = Record<string, unknown>;

/**
 * One self-contained JSON Schema of the file: each slot is a choice of the known plug-ins of its kind, under `$defs`, so that editors
 * complete names and configuration. Slots may nest without end; `$ref` keeps the document finite.
 */
export function exportSchema(root: PluginDescriptor<'deployment'>, registry: PluginRegistry): JsonSchema {
  const definitions: Schema = {};
  const kinds = new Set<string>();
  const pending: string[] = [];
  const slotReference = (kind: string): Schema => {
    if (!kinds.has(kind)) {
      kinds.add(kind);
      pending.push(kind);
    }
    return { $ref: `#/$defs/${escape(`slot ${kind}`)}` };
  };
  const inline = (schema: unknown, home: string): Schema =>
    mapSchema(moveReferences(schema, home), (sub) => replaceSlot(sub, slotReference)) as Schema;

  const whole = inline(fileSchema(root.configSchema), '');
  for (let kind = pending.shift(); kind !== undefined; kind = pending.shift()) {
    const choices: Schema[] = [];
    for (const descriptor of registry.ofKind(kind)) {
      const name = `${kind} ${descriptor.name}`;
      const { $id: _id, $schema: _schema, ...config } = inline(descriptor.configSchema, `#/$defs/${escape(name)}`);
      definitions[name] = config;
      choices.push({
        type: 'object',
        title: descriptor.name,
        description: descriptor.description,
        required: needsConfig(config) ? ['use', 'config'] : ['use'],
        additionalProperties: false,
        properties: { use: { const: descriptor.name, description: descriptor.description }, config: { $ref: `#/$defs/${escape(name)}` } },
      });
    }
    const names = choices.map((choice) => choice['title']);
    // Plug-ins that this process does not know have names that it cannot list: the editor still completes the known ones.
    definitions[`slot ${kind}`] = choices.length === 0 ? { type: 'object', required: ['use'], description: `A ${kind} plug-in.` } : { type: 'object', required: ['use'], properties: { use: { enum: names } }, oneOf: choices };
  }
  const own = isSchema(whole['$defs']) ? whole['$defs'] : {};
  return { $schema: 'https://json-schema.org/draft/2020-12/schema', title: 'Armature configuration', ...whole, $defs: { ...own, ...definitions } };
}

function needsConfig(schema: Schema): boolean {
  return Array.isArray(schema['required']) && schema['required'].length > 0;
}

/** `#/…` inside an inlined schema points at its new home. */
function moveReferences(schema: unknown, home: string): unknown {
  if (Array.isArray(schema)) return schema.map((item) => moveReferences(item, home));
  if (!isSchema(schema)) return schema;
  return Object.fromEntries(
    Object.entries(schema).map(([key, value]) => {
      if (key === '$ref' && typeof value === 'string' && value.startsWith('#')) return [key, `${home === '' ? '#' : home}${value.slice(1)}`];
      return [key, moveReferences(value, home)];
    }),
  );
}

/** Text inside a JSON pointer inside a URI fragment. */
function escape(name: string): string {
  return encodeURIComponent(name.replaceAll('~', '~0').replaceAll('/', '~1'));
}
