import { isAscii, isUtf8 } from 'node:buffer';
import { badRequest } from './api-error.ts';
import { isObject, typeName } from './fields.ts';
import type { Json } from './fields.ts';

/** Bytes → JSON object. Throws a 400: `empty_body`, `invalid_utf8`, `invalid_json`, `invalid_type`. */
export function parseBody(bytes: Uint8Array): Json {
  if (bytes.length === 0) throw badRequest(null, 'empty_body', 'The request has no body; send a JSON object.');
  const buffer = Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  // ASCII to a one-byte string is a copy; everything else must be proven UTF-8, or the tokenizer would see replacement characters.
  let text: string;
  if (isAscii(buffer)) text = buffer.toString('latin1');
  else if (isUtf8(buffer)) text = buffer.toString('utf8');
  else throw badRequest(null, 'invalid_utf8', 'The request body is not valid UTF-8.');
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    const reason = error instanceof Error ? error.message.slice(0, 200) : '';
    throw badRequest(null, 'invalid_json', `The request body is not valid JSON: ${reason}`);
  }
  if (!isObject(value)) throw badRequest(null, 'invalid_type', `The request body must be a JSON object, got ${typeName(value)}.`);
  return value;
}
