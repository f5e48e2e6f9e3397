import { ArmatureError } from '@armature/contracts';
import type { ModelHandle, RoutingOverrides, Selection } from '@armature/contracts';

/** A request body of the selection API. */
export interface SelectionBody {
  readonly id: string | undefined;
  readonly model: string | undefined;
  readonly prompt: { readonly type: 'tokens'; readonly ids: Int32Array } | { readonly type: 'text'; readonly text: string } | { readonly type: 'chat'; readonly messages: readonly Record<string, unknown>[] };
  readonly cacheSalt: string;
  readonly tracks: boolean;
  readonly routing: RoutingOverrides;
}

const FIELDS = new Set(['id', 'model', 'tokens', 'prompt', 'messages', 'cache_salt', 'track', 'routing']);
const NUMBERS: Readonly<Record<string, keyof RoutingOverrides>> = { overlap_credit: 'overlapCredit', temperature: 'temperature' };
const STRINGS: Readonly<Record<string, keyof RoutingOverrides>> = { worker: 'worker', prefill_worker: 'prefillWorker' };

function invalid(field: string, found: string, hint: string): ArmatureError {
  return new ArmatureError('SELECTION_REQUEST_INVALID', `'${field}' ${found}`, { hint });
}

export function parseJson(bytes: Uint8Array): Readonly<Record<string, unknown>> {
  let value: unknown;
  try {
    value = bytes.length === 0 ? {} : JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch {
    throw invalid('body', 'is not JSON', 'send a JSON object with content-type application/json');
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw invalid('body', 'is not an object', 'send a JSON object');
  return value as Readonly<Record<string, unknown>>;
}

/** Throws `SELECTION_REQUEST_INVALID`. */
export function parseSelection(body: Readonly<Record<string, unknown>>): SelectionBody {
  for (const field of Object.keys(body)) if (!FIELDS.has(field)) throw invalid(field, 'is not a field', `fields are ${[...FIELDS].join(', ')}`);
  const given = ['tokens', 'prompt', 'messages'].filter((field) => body[field] !== undefined);
  if (given.length !== 1) throw invalid('tokens', given.length === 0 ? 'is missing' : `is given beside ${given.slice(1).join(', ')}`, 'send exactly one of tokens, prompt, messages');
  const track = body['track'] ?? true;
  if (typeof track !== 'boolean') throw invalid('track', 'is not true or false', 'leave it out to count the request as load');
  return {
    id: optionalString(body, 'id'),
    model: optionalString(body, 'model'),
    prompt: parsePrompt(body),
    cacheSalt: optionalString(body, 'cache_salt') ?? '',
    tracks: track,
    routing: parseRouting(body['routing']),
  };
}

function optionalString(body: Readonly<Record<string, unknown>>, field: string): string | undefined {
  const value = body[field];
  if (value === undefined || value === null) return undefined;
  if (typeof value !== 'string' || value === '' || value.length > 512) throw invalid(field, 'is not a string of 1 to 512 characters', 'send a string, or leave it out');
  return value;
}

function parsePrompt(body: Readonly<Record<string, unknown>>): SelectionBody['prompt'] {
  const { tokens, prompt, messages } = body;
  if (tokens !== undefined) return { type: 'tokens', ids: tokenColumn(tokens) };
  if (messages !== undefined) {
    const isChat = Array.isArray(messages) && messages.every((message) => typeof message === 'object' && message !== null && typeof (message as { role?: unknown }).role === 'string');
    if (!isChat) throw invalid('messages', 'is not a list of messages with a role', 'send [{"role": "user", "content": "…"}]');
    return { type: 'chat', messages: messages as Record<string, unknown>[] };
  }
  if (typeof prompt !== 'string') throw invalid('prompt', 'is not a string', 'send text, or token ids as tokens');
  return { type: 'text', text: prompt };
}

function tokenColumn(value: unknown): Int32Array {
  if (!Array.isArray(value)) throw invalid('tokens', 'is not an array', 'send token ids, [1, 2, 3]');
  const ids = new Int32Array(value.length);
  for (let i = 0; i < value.length; i++) {
    const id: unknown = value[i];
    if (typeof id !== 'number' || !Number.isInteger(id) || id < 0 || id > 0xffff_ffff) throw invalid(`tokens[${i}]`, `is ${JSON.stringify(id)}`, 'token ids are integers from 0 to 4294967295');
    ids[i] = id;
  }
  return ids;
}

function parseRouting(value: unknown): RoutingOverrides {
  if (value === undefined || value === null) return {};
  if (typeof value !== 'object' || Array.isArray(value)) throw invalid('routing', 'is not an object', 'send {"overlap_credit": 1, "temperature": 0, "worker": "…"}');
  const overrides: Record<string, unknown> = {};
  for (const [field, entry] of Object.entries(value)) {
    const number = NUMBERS[field];
    const string = STRINGS[field];
    if (number !== undefined && typeof entry === 'number' && entry >= 0 && Number.isFinite(entry)) overrides[number] = entry;
    else if (string !== undefined && typeof entry === 'string' && entry !== '') overrides[string] = entry;
    else throw invalid(`routing.${field}`, number === undefined && string === undefined ? 'is not a field' : `is ${JSON.stringify(entry)}`, `fields are ${[...Object.keys(NUMBERS), ...Object.keys(STRINGS)].join(', ')}`);
  }
  return overrides;
}

/** 16-digit hex sequence hashes as interleaved words. */
export function parseHashes(value: unknown): Int32Array {
  if (!Array.isArray(value)) throw invalid('sequence_hashes', 'is not an array', 'send hashes of 16 hex digits');
  const words = new Int32Array(value.length * 2);
  for (let i = 0; i < value.length; i++) {
    const hash: unknown = value[i];
    if (typeof hash !== 'string' || !/^[0-9a-f]{16}$/i.test(hash)) throw invalid(`sequence_hashes[${i}]`, `is ${JSON.stringify(hash)?.slice(0, 40)}`, 'hashes are strings of 16 hex digits (numbers would lose bits)');
    words[i * 2] = parseInt(hash.slice(8), 16) | 0;
    words[i * 2 + 1] = parseInt(hash.slice(0, 8), 16) | 0;
  }
  return words;
}

/** Throws what the preprocessor throws. */
export function tokensOf(model: ModelHandle, prompt: SelectionBody['prompt']): Int32Array {
  if (prompt.type === 'tokens') return prompt.ids;
  if (prompt.type === 'text') return model.preprocessor.encodeText(prompt.text).tokenIds;
  const messages = prompt.messages.map((message) => ({ ...message, role: String(message['role']), content: typeof message['content'] === 'string' ? message['content'] : '' }));
  return model.preprocessor.encodeChat({ messages, addGenerationPrompt: true, continueFinalMessage: false }).tokenIds;
}

export function selectionJson(selection: Selection): Readonly<Record<string, unknown>> {
  const worker = (chosen: Selection['worker']): Readonly<Record<string, unknown>> => ({
    id: chosen.instanceId,
    address: chosen.address,
    overlap_blocks: chosen.overlapBlocks,
    overlap_tokens: Math.min(selection.promptTokens, chosen.overlapBlocks * selection.blockSize),
    cost: chosen.cost,
  });
  return {
    id: selection.id,
    worker: worker(selection.worker),
    prefill: selection.prefill === undefined ? null : worker(selection.prefill),
    prompt_tokens: selection.promptTokens,
    blocks: selection.blocks,
    block_size: selection.blockSize,
  };
}
