import { ArmatureError } from '@armature/contracts';
import type { ChatInput, ChatMessage, Clock } from '@armature/contracts';
import { tokenContent } from '../model-card.ts';
import type { ModelFiles } from '../model-files.ts';
import { JinjaTemplate } from './jinja-template.ts';
import { strftime } from './strftime.ts';

/** Messages → prompt text by the model's Jinja template. */
export class ChatTemplate {
  readonly #plain: JinjaTemplate;
  readonly #withTools: JinjaTemplate;

  /** Throws `PREPROCESSOR_TEMPLATE_INVALID` when a template does not parse. */
  constructor(files: ModelFiles, clock: Clock) {
    const templates = files.templates ?? new Map<string, string>();
    const globals = globalVariables(files, clock);
    const name = templates.has('default') ? 'default' : ([...templates.keys()][0] ?? 'default');
    this.#plain = parse(templates.get(name) ?? '', name, files.folder, globals);
    // Like transformers: a template named tool_use is for requests with tools.
    const tools = templates.get('tool_use');
    this.#withTools = tools === undefined ? this.#plain : parse(tools, 'tool_use', files.folder, globals);
  }

  /** Throws `PREPROCESSOR_TEMPLATE_FAILED`. */
  render(input: ChatInput): string {
    const messages = input.messages.every((message) => typeof message.content === 'string') ? input.messages : input.messages.map(joinParts);
    const variables: Record<string, unknown> = {
      ...input.templateVariables,
      messages,
      add_generation_prompt: input.addGenerationPrompt && !input.continueFinalMessage,
    };
    const hasTools = input.tools !== undefined && input.tools.length > 0;
    if (hasTools) variables.tools = input.tools;
    let text: string;
    try {
      text = (hasTools ? this.#withTools : this.#plain).render(variables);
    } catch (error) {
      throw new ArmatureError('PREPROCESSOR_TEMPLATE_FAILED', `the model's chat template refuses these messages: ${(error as Error).message}`, {
        hint: 'check the roles and their order; many templates want user and assistant in turn and at most one system message, first',
        cause: error,
      });
    }
    return input.continueFinalMessage ? cutAfterFinalMessage(text, messages) : text;
  }
}

function parse(source: string, name: string, folder: string, globals: Readonly<Record<string, unknown>>): JinjaTemplate {
  try {
    return new JinjaTemplate(source, globals);
  } catch (error) {
    throw new ArmatureError('PREPROCESSOR_TEMPLATE_INVALID', `chat template "${name}" of ${folder} does not parse: ${(error as Error).message}`, {
      hint: 'name a template that works with chatTemplate in the preprocessor’s config',
      cause: error,
    });
  }
}

/** Time from the clock, and bos_token and its like. */
function globalVariables(files: ModelFiles, clock: Clock): Record<string, unknown> {
  const globals: Record<string, unknown> = { strftime_now: (format: string) => strftime(format, clock.wallMs()) };
  for (const [name, value] of Object.entries(files.tokenizerConfig)) {
    const content = name.endsWith('_token') ? tokenContent(value) : undefined;
    if (content !== undefined) globals[name] = content;
  }
  return globals;
}

/** Content that came as parts although the contract says text: text parts are joined, anything else stays for the template. */
function joinParts(message: ChatMessage): ChatMessage {
  const parts: unknown = message.content;
  if (!Array.isArray(parts)) return message;
  const texts = (parts as { type?: unknown; text?: unknown }[]).map((part) => (part?.type === 'text' && typeof part.text === 'string' ? part.text : undefined));
  return texts.includes(undefined) ? message : { ...message, content: texts.join('') };
}

/** As transformers does it: everything after the last message's text goes, so that the model continues that message. */
function cutAfterFinalMessage(text: string, messages: readonly ChatMessage[]): string {
  const content: unknown = messages.at(-1)?.content;
  const trimmed = typeof content === 'string' ? content.trim() : '';
  const at = trimmed === '' ? -1 : text.lastIndexOf(trimmed);
  if (typeof content !== 'string' || at < 0) {
    throw new ArmatureError('PREPROCESSOR_TEMPLATE_FAILED', 'the last message cannot be continued: its text does not occur in what the chat template renders', {
      hint: 'give the last message text that is not empty, or leave out continue_final_message',
    });
  }
  const untrimmed = content.trimStart();
  return text.slice(0, at + (text.startsWith(untrimmed, at) ? untrimmed.length : trimmed.length));
}
