import type { PlainData, PluginSlot } from '@armature/contracts';
import { describeConfig } from './effective.ts';
import type { ConfigGraph } from './graph.ts';
import { parsePath } from './path.ts';
import { fileSchema, isSchema } from './schema.ts';

/** What `config explain` prints about one key. */
export interface Explanation {
  readonly path: string;
  readonly description: string | undefined;
  /** `integer`, `text`, `router-policy plug-in`, `list of …`. */
  readonly type: string;
  readonly default: PlainData;
  readonly allowed: readonly PlainData[] | undefined;
  /** Plug-in names, for a slot. */
  readonly plugins: readonly string[] | undefined;
  /** Effective values at this key, one per place where indices were left out. */
  readonly values: readonly { readonly path: string; readonly value: PlainData; readonly origin: string }[];
}

type Schema = Record<string, unknown>;

export function explain(graph: ConfigGraph, path: string): Explanation | undefined {
  const parts = parsePath(path).filter((part) => typeof part === 'string');
  let schema: Schema | undefined = fileSchema(graph.root.configSchema);
  for (let i = 0; i < parts.length && schema !== undefined; i++) {
    const at: Schema = plain(schema);
    const kind: unknown = at['x-kind'];
    if (typeof kind === 'string') {
      schema = slotChild(graph, kind, parts.slice(0, i), parts[i]);
      continue;
    }
    schema = child(at, parts[i]);
  }
  if (schema === undefined) return undefined;
  const at = plain(schema);
  const kind = at['x-kind'];
  const normal = path.replace(/\[\d+\]/g, '');
  return {
    path,
    description: textOf(schema['description']) ?? textOf(at['description']),
    type: typeName(schema),
    default: (schema['default'] ?? at['default']) as PlainData,
    allowed: (at['enum'] ?? (at['const'] === undefined ? undefined : [at['const']])) as readonly PlainData[] | undefined,
    plugins: typeof kind === 'string' ? graph.registry.names(kind) : undefined,
    values: describeConfig(graph)
      .filter((entry) => matches(entry.path, path, normal))
      .map(({ path: place, value, origin }) => ({ path: place, value, origin })),
  };
}

function matches(entry: string, path: string, normal: string): boolean {
  const hasIndex = path !== normal;
  const text = hasIndex ? entry : entry.replace(/\[\d+\]/g, '');
  const wanted = hasIndex ? path : normal;
  return text === wanted || text.startsWith(`${wanted}.`) || text.startsWith(`${wanted}[`);
}

/** Through lists to what they hold. */
function plain(schema: Schema): Schema {
  const items = schema['items'];
  if (typeof schema['x-kind'] !== 'string' && isSchema(items)) return plain(items);
  return schema;
}

function child(schema: Schema, key: string): Schema | undefined {
  const properties = schema['properties'];
  if (isSchema(properties) && isSchema(properties[key])) return properties[key];
  for (const choice of ['allOf', 'anyOf', 'oneOf']) {
    for (const branch of (schema[choice] as readonly Schema[] | undefined) ?? []) {
      const found = child(plain(branch), key);
      if (found !== undefined) return found;
    }
  }
  return isSchema(schema['additionalProperties']) ? schema['additionalProperties'] : undefined;
}

/** Below a slot: `use`, or the config of the plug-in that is used there. */
function slotChild(graph: ConfigGraph, kind: string, parts: readonly string[], key: string): Schema | undefined {
  if (key === 'use') return { type: 'string', description: `Name of the ${kind} plug-in.`, enum: graph.registry.names(kind) };
  if (key !== 'config') return undefined;
  const wanted = parts.join('.');
  for (const [slot, resolved] of graph.slots as ReadonlyMap<PluginSlot, { readonly descriptor: { readonly configSchema: Schema } }>) {
    if (slot.path.replace(/\[\d+\]/g, '') === wanted) return resolved.descriptor.configSchema;
  }
  return { type: 'object', description: `Configuration of the ${kind} plug-in.` };
}

function typeName(schema: Schema): string {
  const kind = schema['x-kind'];
  if (typeof kind === 'string') return schema['type'] === 'array' ? `list of ${kind} plug-ins` : `${kind} plug-in`;
  if (isSchema(schema['items'])) return `list of ${typeName(schema['items'])}`;
  const type = schema['type'];
  if (Array.isArray(type)) return type.join(' or ');
  if (typeof type === 'string') return type;
  return schema['enum'] === undefined && schema['const'] === undefined ? 'any' : 'one of';
}

function textOf(value: unknown): string | undefined {
  return typeof value === 'string' ? value : undefined;
}
