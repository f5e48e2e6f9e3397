import { badRequest } from './api-error.ts';

export type Json = Readonly<Record<string, unknown>>;

/** For messages: what was found, in words a client's author knows. */
export function typeName(value: unknown): string {
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'an array';
  switch (typeof value) {
    case 'object':
      return 'an object';
    case 'number':
      return Number.isInteger(value) ? 'an integer' : 'a number';
    case 'undefined':
      return 'nothing';
    default:
      return `a ${typeof value}`;
  }
}

/** Neither absent nor null. */
export function isSet(value: unknown): boolean {
  return value !== undefined && value !== null;
}

export function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** A nested object under its full path, so that every reader and message below names `nvext.ignore_eos` and not `ignore_eos`. */
export function nested(body: Json, key: string): Json {
  const value = optionalObject(body, key);
  if (value === undefined) return NONE;
  const named: Record<string, unknown> = {};
  for (const name of Object.keys(value)) named[`${key}.${name}`] = value[name];
  return named;
}

const NONE: Json = Object.freeze({});

export function invalidType(param: string, expected: string, found: unknown): Error {
  return badRequest(param, 'invalid_type', `'${param}' must be ${expected}, got ${typeName(found)}.`);
}

export function invalidValue(param: string, message: string): Error {
  return badRequest(param, 'invalid_value', `'${param}' ${message}`);
}

/** Absent and null are the same everywhere, as in OpenAI's own API. */
export function optionalNumber(body: Json, key: string, min: number, max: number): number | undefined {
  const value = body[key];
  if (value === undefined || value === null) return undefined;
  if (typeof value !== 'number') throw invalidType(key, 'a number', value);
  if (!(value >= min && value <= max)) throw invalidValue(key, `must be between ${min} and ${max}, got ${value}.`);
  return value;
}

export function optionalInteger(body: Json, key: string, min: number, max: number): number | undefined {
  const value = body[key];
  if (value === undefined || value === null) return undefined;
  if (typeof value !== 'number') throw invalidType(key, 'an integer', value);
  if (!Number.isInteger(value)) throw invalidValue(key, `must be an integer, got ${value}.`);
  if (!(value >= min && value <= max)) {
    throw invalidValue(key, max === Number.MAX_SAFE_INTEGER ? `must be at least ${min}, got ${value}.` : `must be between ${min} and ${max}, got ${value}.`);
  }
  return value;
}

export function optionalBoolean(body: Json, key: string): boolean | undefined {
  const value = body[key];
  if (value === undefined || value === null) return undefined;
  if (typeof value !== 'boolean') throw invalidType(key, 'a boolean', value);
  return value;
}

export function optionalString(body: Json, key: string, maxLength: number): string | undefined {
  const value = body[key];
  if (value === undefined || value === null) return undefined;
  if (typeof value !== 'string') throw invalidType(key, 'a string', value);
  if (value.length > maxLength) throw invalidValue(key, `must have at most ${maxLength} characters, got ${value.length}.`);
  return value;
}

export function optionalObject(body: Json, key: string): Json | undefined {
  const value = body[key];
  if (value === undefined || value === null) return undefined;
  if (!isObject(value)) throw invalidType(key, 'an object', value);
  return value;
}
