import type { ChatInput, ChatMessage } from '@armature/contracts';
import { badRequest } from './api-error.ts';
import { invalidType, invalidValue, isObject, isSet, optionalBoolean, optionalInteger, optionalObject, typeName } from './fields.ts';
import type { Json } from './fields.ts';
import { LIMITS } from './limits.ts';
import { parseCommon, parseMaxTokens, refuseUnsupported } from './sampling-fields.ts';
import type { CommonFields } from './sampling-fields.ts';
import { parseTools } from './tool-fields.ts';

/** A valid `POST /v1/chat/completions`. */
export interface ChatFields {
  readonly common: CommonFields;
  readonly input: ChatInput;
  readonly maxTokens: number | undefined;
  readonly topLogprobs: number;
}

const ROLES = new Set(['system', 'developer', 'user', 'assistant', 'tool', 'function']);

/** Throws a 400 that names the first field at fault. */
export function parseChat(body: Json): ChatFields {
  const common = parseCommon(body);
  const messages = parseMessages(body['messages']);
  refuseUnsupported(body);
  const tools = parseTools(body);
  const continueFinalMessage = optionalBoolean(body, 'continue_final_message') ?? false;
  const addGenerationPrompt = optionalBoolean(body, 'add_generation_prompt');
  if (continueFinalMessage) {
    if (addGenerationPrompt === true) throw invalidValue('continue_final_message', "cannot be true together with 'add_generation_prompt'.");
    if (messages[messages.length - 1]!.role !== 'assistant') throw invalidValue('continue_final_message', 'needs a last message of role assistant.');
  }
  const templateVariables = optionalObject(body, 'chat_template_kwargs');
  return {
    common,
    maxTokens: parseMaxTokens(body),
    topLogprobs: parseLogprobs(body),
    input: {
      messages,
      addGenerationPrompt: addGenerationPrompt ?? !continueFinalMessage,
      continueFinalMessage,
      ...(tools === undefined ? {} : { tools }),
      ...(templateVariables === undefined ? {} : { templateVariables }),
    },
  };
}

function parseLogprobs(body: Json): number {
  const wanted = optionalBoolean(body, 'logprobs') ?? false;
  const top = optionalInteger(body, 'top_logprobs', 0, LIMITS.topLogprobs);
  if (top !== undefined && top > 0 && !wanted) throw invalidValue('top_logprobs', "is only allowed when 'logprobs' is true.");
  return wanted ? (top ?? 0) : -1;
}

function parseMessages(value: unknown): ChatMessage[] {
  if (value === undefined || value === null) throw badRequest('messages', 'missing_required_parameter', "Missing required parameter: 'messages'.");
  if (!Array.isArray(value)) throw invalidType('messages', 'an array of messages', value);
  if (value.length === 0) throw badRequest('messages', 'empty_array', "'messages' must have at least one message, got an empty array.");
  if (value.length > LIMITS.messages) throw invalidValue('messages', `must have at most ${LIMITS.messages} messages, got ${value.length}.`);
  const messages: ChatMessage[] = [];
  for (let i = 0; i < value.length; i++) messages.push(parseMessage(value[i], i));
  return messages;
}

function parseMessage(value: unknown, index: number): ChatMessage {
  if (!isObject(value)) throw invalidType(`messages[${index}]`, 'an object', value);
  const role = value['role'];
  if (role === undefined || role === null) throw badRequest(`messages[${index}].role`, 'missing_required_parameter', `Missing required parameter: 'messages[${index}].role'.`);
  if (typeof role !== 'string') throw invalidType(`messages[${index}].role`, 'a string', role);
  if (!ROLES.has(role)) throw invalidValue(`messages[${index}].role`, `must be one of ${[...ROLES].join(', ')}, got ${JSON.stringify(role.slice(0, 40))}.`);
  const name = value['name'];
  if (name !== undefined && name !== null && typeof name !== 'string') throw invalidType(`messages[${index}].name`, 'a string', name);
  const content = parseContent(value, role, index);
  // Templates know `system`; `developer` is OpenAI's newer word for it.
  if (role !== 'developer' && content === value['content'] && name !== null) return value as ChatMessage;
  const { name: _name, ...rest } = value;
  return { ...rest, role: role === 'developer' ? 'system' : role, content, ...(typeof name === 'string' ? { name } : {}) };
}

function parseContent(message: Json, role: string, index: number): string {
  const content = message['content'];
  if (typeof content === 'string') return content;
  const param = `messages[${index}].content`;
  if (content === undefined || content === null) {
    const mayBeAbsent = role === 'assistant' && (isSet(message['tool_calls']) || isSet(message['function_call']) || isSet(message['refusal']));
    if (mayBeAbsent) return '';
    throw badRequest(param, 'missing_required_parameter', `'${param}' is required for role '${role}', got ${typeName(content)}.`);
  }
  if (!Array.isArray(content)) throw invalidType(param, 'a string or an array of content parts', content);
  if (content.length === 0) throw badRequest(param, 'empty_array', `'${param}' must have at least one part, got an empty array.`);
  let text = '';
  for (let i = 0; i < content.length; i++) text += (i === 0 ? '' : '\n') + partText(content[i], `${param}[${i}]`);
  return text;
}

function partText(part: unknown, param: string): string {
  if (!isObject(part)) throw invalidType(param, 'a content part (an object)', part);
  const type = part['type'];
  if (type === undefined) throw badRequest(`${param}.type`, 'missing_required_parameter', `Missing required parameter: '${param}.type'.`);
  if (type === 'text' || type === 'refusal') {
    const text = part[type];
    if (typeof text !== 'string') throw invalidType(`${param}.${type}`, 'a string', text);
    return text;
  }
  if (typeof type !== 'string') throw invalidType(`${param}.type`, 'a string', type);
  throw badRequest(param, 'unsupported_content', `'${param}' is of type '${type.slice(0, 40)}'; this server takes text parts only.`);
}
