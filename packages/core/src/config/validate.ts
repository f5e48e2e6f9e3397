import { Ajv2020 } from 'ajv/dist/2020.js';
import type { ErrorObject, ValidateFunction } from 'ajv';
import { ArmatureError } from '@armature/contracts';
import type { JsonSchema } from '@armature/contracts';
import { validationSchema } from './schema.ts';

export interface SlotMark {
  readonly pointer: string;
  readonly kind: string;
  /** The `{use, config}` object, and where it hangs. */
  readonly value: Record<string, unknown>;
  readonly parent: Record<string | number, unknown>;
  readonly key: string | number;
}
export interface ScopeMark {
  readonly pointer: string;
  readonly kind: string;
  readonly value: object;
}
export interface Validation {
  readonly errors: readonly ErrorObject[];
  readonly slots: readonly SlotMark[];
  readonly scopes: readonly ScopeMark[];
  /** Pointers of values marked `x-secret`. */
  readonly secrets: readonly string[];
}

interface Marks {
  readonly slots: Map<string, SlotMark>;
  readonly scopes: Map<string, ScopeMark>;
  readonly secrets: Set<string>;
}

// One ajv for the process: compiled schemas are kept by identity, so that a simulator that boots a thousand clusters compiles once.
let marks: Marks = { slots: new Map(), scopes: new Map(), secrets: new Set() };
const compiled = new WeakMap<JsonSchema, ValidateFunction>();
const ajv = createAjv();

/** Validates and fills defaults into `value`; records where slots, scopes and secrets are. */
export function validate(schema: JsonSchema, value: unknown, owner: string): Validation {
  const check = compile(schema, owner);
  const mine: Marks = { slots: new Map(), scopes: new Map(), secrets: new Set() };
  marks = mine;
  const isValid = check(value);
  return {
    errors: isValid ? [] : [...(check.errors ?? [])],
    slots: [...mine.slots.values()],
    scopes: [...mine.scopes.values()],
    secrets: [...mine.secrets],
  };
}

/** Compiles ahead, to find a schema that is itself wrong. Throws `PLUGIN_SCHEMA_INVALID`. */
export function compile(schema: JsonSchema, owner: string): ValidateFunction {
  const known = compiled.get(schema);
  if (known !== undefined) return known;
  const { $id: _id, $schema: _schema, ...rest } = validationSchema(schema);
  try {
    const check = ajv.compile(rest);
    compiled.set(schema, check);
    return check;
  } catch (error) {
    throw new ArmatureError('PLUGIN_SCHEMA_INVALID', `the configSchema of ${owner} is not a JSON Schema: ${(error as Error).message}`, {
      hint: 'correct the plug-in; schemas are draft 2020-12',
      cause: error,
    });
  }
}

interface Context {
  instancePath: string;
  parentData: Record<string | number, unknown>;
  parentDataProperty: string | number;
}

function createAjv(): Ajv2020 {
  const instance = new Ajv2020({ strict: false, useDefaults: true, allErrors: true, verbose: true, logger: false, validateFormats: false });
  instance.addKeyword({
    keyword: 'x-slot',
    validate: (kind: string, value: unknown, _schema: unknown, context?: Context) => {
      if (context !== undefined && typeof value === 'object' && value !== null && !Array.isArray(value)) {
        const { instancePath: pointer, parentData: parent, parentDataProperty: key } = context;
        marks.slots.set(pointer, { pointer, kind, value: value as Record<string, unknown>, parent, key });
      }
      return true;
    },
  });
  instance.addKeyword({
    keyword: 'x-scope',
    validate: (kind: string, value: unknown, _schema: unknown, context?: Context) => {
      if (context !== undefined && typeof value === 'object' && value !== null) {
        marks.scopes.set(context.instancePath, { pointer: context.instancePath, kind, value });
      }
      return true;
    },
  });
  instance.addKeyword({
    keyword: 'x-secret',
    validate: (isSecret: unknown, _value: unknown, _schema: unknown, context?: Context) => {
      if (isSecret === true && context !== undefined) marks.secrets.add(context.instancePath);
      return true;
    },
  });
  return instance;
}
