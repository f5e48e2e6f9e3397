import { unsupported } from './api-error.ts';
import { invalidType, invalidValue, isObject, isSet } from './fields.ts';
import type { Json } from './fields.ts';

/** Tools reach the template only where no call is expected: nothing here could force or parse one. */
export function parseTools(body: Json): readonly unknown[] | undefined {
  const choice = parseToolChoice(body['tool_choice']);
  for (const key of ['functions', 'function_call']) {
    const value = body[key];
    if (isSet(value) && value !== 'none') throw unsupported(key, `'${key}' is deprecated and not supported.`);
  }
  const tools = body['tools'];
  if (!isSet(tools)) return undefined;
  if (!Array.isArray(tools)) throw invalidType('tools', 'an array', tools);
  if (tools.length === 0) return undefined;
  for (let i = 0; i < tools.length; i++) checkTool(tools[i], `tools[${i}]`);
  if (choice !== 'none') throw unsupported('tools', "'tools' are only supported with 'tool_choice': 'none' (they are shown to the model, calls are not parsed).");
  return tools;
}

function parseToolChoice(choice: unknown): string | undefined {
  if (!isSet(choice)) return undefined;
  if (choice === 'required' || isObject(choice)) {
    throw unsupported('tool_choice', "'tool_choice' is not supported, except 'none': no engine of this server does guided decoding yet.");
  }
  if (typeof choice !== 'string') throw invalidType('tool_choice', 'a string or an object', choice);
  if (choice !== 'none' && choice !== 'auto') throw invalidValue('tool_choice', `must be one of none, auto, required, or an object, got ${JSON.stringify(choice.slice(0, 40))}.`);
  return choice;
}

function checkTool(tool: unknown, param: string): void {
  if (!isObject(tool)) throw invalidType(param, 'an object', tool);
  if (tool['type'] !== 'function') throw invalidValue(`${param}.type`, "must be 'function'.");
  if (!isObject(tool['function']) || typeof tool['function']['name'] !== 'string') throw invalidValue(`${param}.function`, 'must be an object with a name.');
}
