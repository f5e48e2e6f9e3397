import type { ErrorObject } from 'ajv';
import { pointerParts } from './path.ts';
import type { PathPart } from './path.ts';
import { suggestion } from './nearest.ts';

/** A problem before it has a place in the file. */
export interface RawProblem {
  readonly code: string;
  readonly path: readonly PathPart[];
  readonly message: string;
  readonly hint?: string | undefined;
  /** The place is the key, not the value. */
  readonly atKey?: boolean;
}

/** ajv's errors as problems a person can act on. `data` is what was validated. */
export function schemaProblems(errors: readonly ErrorObject[], data: unknown): RawProblem[] {
  return withoutBranches(errors).map((error) => toProblem(error, pointerParts(error.instancePath, data)));
}

/** `anyOf` fails with the errors of every branch: keep those of the branch that was meant, if one stands out, else the choice itself. */
function withoutBranches(errors: readonly ErrorObject[]): ErrorObject[] {
  let kept = errors.filter((error) => error.keyword !== 'if');
  for (const choice of errors) {
    if (choice.keyword !== 'anyOf' && choice.keyword !== 'oneOf') continue;
    const prefix = `${choice.schemaPath}/`;
    const inside = kept.filter((error) => error.schemaPath.startsWith(prefix) || isVia(error, choice));
    if (inside.length === 0) continue;
    const branches = new Map<string, ErrorObject[]>();
    for (const error of inside) {
      const branch = error.schemaPath.startsWith(prefix) ? (error.schemaPath.slice(prefix.length).split('/')[0] as string) : error.schemaPath.split('/')[2];
      branches.set(branch, [...(branches.get(branch) ?? []), error]);
    }
    const meant = [...branches.values()].filter((branch) => !branch.some((error) => isWrongShape(error, choice)));
    const chosen = meant.length === 1 ? (meant[0] as ErrorObject[]) : [choice];
    kept = kept.filter((error) => error !== choice && !inside.includes(error));
    kept.push(...chosen);
  }
  return kept;
}

/** Errors inside a `$ref` branch have the schema path of the definition; their data is still below the choice. */
function isVia(error: ErrorObject, choice: ErrorObject): boolean {
  return error !== choice && error.schemaPath.startsWith('#/$defs/') && error.instancePath.startsWith(choice.instancePath) && !choice.schemaPath.startsWith('#/$defs/');
}

/** The branch was for another type, or for another value of its discriminating key. */
function isWrongShape(error: ErrorObject, choice: ErrorObject): boolean {
  if (error.instancePath === choice.instancePath) return error.keyword === 'type' || error.keyword === 'const' || error.keyword === 'enum';
  return error.keyword === 'const';
}

function toProblem(error: ErrorObject, path: readonly PathPart[]): RawProblem {
  const params = error.params as Record<string, unknown>;
  switch (error.keyword) {
    case 'additionalProperties':
    case 'unevaluatedProperties':
      return unknownKey(error, path, String(params['additionalProperty'] ?? params['unevaluatedProperty']));
    case 'required':
      return missingKey(error, path, String(params['missingProperty']));
    case 'type':
      return { code: 'CONFIG_WRONG_TYPE', path, message: `expected ${typeNames(params['type'])}, found ${found(error.data)}`, hint: slotHint(error) ?? description(error) };
    case 'enum':
      return wrongChoice(error, path, params['allowedValues'] as readonly unknown[]);
    case 'const':
      return wrongChoice(error, path, [params['allowedValue']]);
    default:
      return { code: 'CONFIG_INVALID_VALUE', path, message: `${found(error.data)} ${wording(error)}`, hint: description(error) };
  }
}

function unknownKey(error: ErrorObject, path: readonly PathPart[], key: string): RawProblem {
  const known = Object.keys(((error.parentSchema as Record<string, unknown>)['properties'] as object | undefined) ?? {});
  return {
    code: 'CONFIG_UNKNOWN_KEY',
    path: [...path, key],
    message: `unknown key "${key}"`,
    hint: suggestion(key, known, 'known keys') ?? 'nothing can be set here: remove it',
    atKey: true,
  };
}

function missingKey(error: ErrorObject, path: readonly PathPart[], key: string): RawProblem {
  const properties = (error.parentSchema as Record<string, Record<string, { description?: string }> | undefined>)['properties'];
  const meaning = properties?.[key]?.description;
  return { code: 'CONFIG_MISSING_KEY', path: [...path, key], message: `required key "${key}" is missing`, hint: meaning === undefined ? `add "${key}"` : `${key}: ${meaning}` };
}

function wrongChoice(error: ErrorObject, path: readonly PathPart[], allowed: readonly unknown[]): RawProblem {
  const words = allowed.map((value) => (typeof value === 'string' ? value : JSON.stringify(value)));
  return {
    code: 'CONFIG_INVALID_VALUE',
    path,
    message: `${found(error.data)} is not one of the allowed values`,
    hint: allowed.length === 1 ? `write ${words[0]}` : suggestion(String(error.data), words, 'allowed'),
  };
}

function wording(error: ErrorObject): string {
  const params = error.params as Record<string, unknown>;
  switch (error.keyword) {
    case 'minimum': return `is less than the least allowed, ${params['limit']}`;
    case 'maximum': return `is more than the most allowed, ${params['limit']}`;
    case 'exclusiveMinimum': return `must be more than ${params['limit']}`;
    case 'exclusiveMaximum': return `must be less than ${params['limit']}`;
    case 'multipleOf': return `is not a multiple of ${params['multipleOf']}`;
    case 'minLength': return params['limit'] === 1 ? 'must not be empty' : `is shorter than ${params['limit']} characters`;
    case 'maxLength': return `is longer than ${params['limit']} characters`;
    case 'minItems': return `has fewer than ${params['limit']} entries`;
    case 'maxItems': return `has more than ${params['limit']} entries`;
    case 'uniqueItems': return `says the same thing twice (entries ${params['j']} and ${params['i']})`;
    case 'pattern': return `does not have the form ${params['pattern']}`;
    case 'anyOf':
    case 'oneOf': return `fits none of the forms allowed here${forms(error)}`;
    default: return error.message ?? 'is not valid';
  }
}

function forms(error: ErrorObject): string {
  const words = ((error.schema ?? []) as readonly Record<string, unknown>[]).map((branch) => branch['title'] ?? branch['const'] ?? branch['type']);
  return words.every((word) => typeof word === 'string' || typeof word === 'number') ? ` (${words.join(', ')})` : '';
}

/** `router: kv` is what people write first. */
function slotHint(error: ErrorObject): string | undefined {
  const kind = (error.parentSchema as Record<string, unknown> | undefined)?.['x-slot'];
  if (typeof kind !== 'string') return undefined;
  return `write { use: ${typeof error.data === 'string' ? error.data : 'NAME'} }, where the name is that of a ${kind}`;
}

function description(error: ErrorObject): string | undefined {
  const text = (error.parentSchema as Record<string, unknown> | undefined)?.['description'];
  return typeof text === 'string' ? text : undefined;
}

function typeNames(type: unknown): string {
  const names = Array.isArray(type) ? (type as string[]) : String(type).split(',');
  return names.map((name) => ({ object: 'a mapping', array: 'a list', string: 'text', integer: 'a whole number', number: 'a number', boolean: 'true or false', null: 'nothing' })[name] ?? name).join(' or ');
}

function found(value: unknown): string {
  if (value === null || value === undefined) return 'nothing';
  if (Array.isArray(value)) return 'a list';
  if (typeof value === 'object') return 'a mapping';
  if (typeof value === 'string') return `"${value.length > 60 ? `${value.slice(0, 60)}…` : value}"`;
  return String(value);
}
