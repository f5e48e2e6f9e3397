import type { JsonSchema } from '@armature/contracts';

type Schema = Record<string, unknown>;

const SCHEMA_MAPS = new Set(['properties', '$defs', 'definitions', 'patternProperties', 'dependentSchemas']);
const SCHEMA_LISTS = new Set(['anyOf', 'oneOf', 'allOf', 'prefixItems']);
const SCHEMAS = new Set(['items', 'additionalProperties', 'unevaluatedProperties', 'unevaluatedItems', 'contains', 'propertyNames', 'not', 'if', 'then', 'else']);

/** Copies a schema, giving `visit` each subschema from the outside in; what it returns instead of undefined replaces the subschema. */
export function mapSchema(schema: unknown, visit: (schema: Schema) => Schema | undefined): unknown {
  if (!isSchema(schema)) return schema;
  const replaced = visit(schema);
  if (replaced !== undefined) return replaced;
  const copy: Schema = {};
  for (const [key, value] of Object.entries(schema)) {
    if (SCHEMAS.has(key)) copy[key] = mapSchema(value, visit);
    else if (SCHEMA_LISTS.has(key) && Array.isArray(value)) copy[key] = value.map((item) => mapSchema(item, visit));
    else if (SCHEMA_MAPS.has(key) && isSchema(value)) copy[key] = mapEntries(value, (item) => mapSchema(item, visit));
    else copy[key] = value;
  }
  return copy;
}

export function isSchema(value: unknown): value is Schema {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function mapEntries(object: Schema, map: (value: unknown) => unknown): Schema {
  return Object.fromEntries(Object.entries(object).map(([key, value]) => [key, map(value)]));
}

/** The schema that ajv compiles: each `x-kind` becomes the shape of a slot, marked `x-slot` so that validation records where slots are. */
export function validationSchema(schema: JsonSchema): Schema {
  return mapSchema(schema, (sub) => replaceSlot(sub, (kind) => slotShape(kind))) as Schema;
}

/** Calls `shape` for a slot (or for the items of a list of slots); keeps description and default. */
export function replaceSlot(schema: Schema, shape: (kind: string) => Schema): Schema | undefined {
  const kind = schema['x-kind'];
  if (typeof kind !== 'string') return undefined;
  if (schema['type'] === 'array') {
    const { 'x-kind': _kind, items, ...rest } = schema;
    return { ...rest, items: { ...keep(items), ...shape(kind) } };
  }
  return { ...keep(schema), ...shape(kind) };
}

function keep(schema: unknown): Schema {
  if (!isSchema(schema)) return {};
  const kept: Schema = {};
  for (const key of ['title', 'description', 'default', 'examples', 'deprecated']) if (key in schema) kept[key] = schema[key];
  return kept;
}

function slotShape(kind: string): Schema {
  return {
    type: 'object',
    required: ['use'],
    additionalProperties: false,
    properties: { use: { type: 'string', minLength: 1 }, config: { type: ['object', 'null'] } },
    'x-slot': kind,
  };
}

/** Sections that core itself reads, beside those of the root descriptor. */
export const CORE_SECTIONS: Readonly<Record<string, Schema>> = {
  apiVersion: { const: 'armature/v1', description: 'Version of this file format.' },
  plugins: {
    type: 'array',
    items: { type: 'string', minLength: 1 },
    default: [],
    description: 'Third-party plug-ins, beside the built-in ones: package names, or paths relative to this file ("./plugins/mine.js").',
  },
  log: {
    type: 'object',
    additionalProperties: false,
    default: {},
    description: 'Log of this process, on standard error.',
    properties: {
      level: { enum: ['debug', 'info', 'warn', 'error', 'silent'], default: 'info', description: 'Least severe level that is written. ARMATURE_LOG_LEVEL overrides it.' },
      format: { enum: ['json', 'pretty'], default: 'json', description: 'json: one object a line; pretty: for people. ARMATURE_LOG_FORMAT overrides it.' },
    },
  },
};

/** The schema of the whole file: core's sections and those of the root descriptor. */
export function fileSchema(root: JsonSchema): Schema {
  const properties = { ...CORE_SECTIONS, ...(root['properties'] as Schema | undefined) };
  const required = new Set(['apiVersion', ...((root['required'] as readonly string[] | undefined) ?? [])]);
  return { additionalProperties: false, ...root, type: 'object', properties, required: [...required] };
}
