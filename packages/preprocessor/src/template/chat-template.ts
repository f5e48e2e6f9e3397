import { Environment, Interpreter, Template } from '@huggingface/jinja';
import { ArmatureError } from '@armature/contracts';
import type { ChatInput, ChatMessage, Clock } from '@armature/contracts';
import { tokenContent } from './model-card.ts';
import type { ModelFiles } from './model-files.ts';
import { strftime } from './strftime.ts';

type Render = (variables: Record<string, unknown>) => string;

/** Messages → prompt text by the model's Jinja template. */
export class ChatTemplate {
  readonly #render: Render;
  readonly #renderTools: Render;

  /** Throws `PREPROCESSOR_TEMPLATE_INVALID` when a template does not parse. */
  constructor(files: ModelFiles, clock: Clock) {
    const templates = files.templates ?? new Map<string, string>();
    const globals = environment(files, clock);
    const name = templates.has('default') ? 'default' : ([...templates.keys()][0] ?? 'default');
    this.#render = compile(templates.get(name) ?? '', name, files.folder, globals);
    // Like transformers: a template named tool_use is for requests with tools.
    const tools = templates.get('tool_use');
    this.#renderTools = tools === undefined ? this.#render : compile(tools, 'tool_use', files.folder, globals);
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
      text = (hasTools ? this.#renderTools : this.#render)(variables);
    } catch (error) {
      throw new ArmatureError('PREPROCESSOR_TEMPLATE_FAILED', `the model's chat template refuses these messages: ${(error as Error).message}`, {
        hint: 'check the roles and their order; many templates want user and assistant in turn and at most one system message, first',
        cause: error,
      });
    }
    return input.continueFinalMessage ? cutAfterFinalMessage(text, messages) : text;
  }
}

function compile(source: string, name: string, folder: string, globals: Environment): Render {
  let template: Template;
  try {
    template = new Template(source);
  } catch (error) {
    throw new ArmatureError('PREPROCESSOR_TEMPLATE_INVALID', `chat template "${name}" of ${folder} does not parse: ${(error as Error).message}`, {
      hint: 'name a template that works with chatTemplate in the preprocessor’s config',
      cause: error,
    });
  }
  return (variables) => {
    // What Template.render does, except that the globals are made once, and that a request's variables may shadow them.
    const scope = new Environment(globals);
    for (const key in variables) scope.set(key, variables[key]);
    return (new Interpreter(scope).run(template.parsed) as { readonly value: string }).value;
  };
}

/** Jinja's own names, time from the clock, and bos_token and its like. */
function environment(files: ModelFiles, clock: Clock): Environment {
  const globals = new Environment();
  for (const [name, value] of [['true', true], ['false', false], ['none', null]] as const) {
    globals.set(name, value);
    globals.set(name[0].toUpperCase() + name.slice(1), value);
  }
  globals.set('range', range);
  globals.set('strftime_now', (format: string) => strftime(format, clock.wallMs()));
  globals.set('raise_exception', (message: string) => {
    throw new Error(message);
  });
  for (const [name, value] of Object.entries(files.tokenizerConfig)) {
    const content = name.endsWith('_token') ? tokenContent(value) : undefined;
    if (content !== undefined) globals.set(name, content);
  }
  return globals;
}

/** Longest list that a template may ask for. */
const RANGE_LIMIT = 100_000;

function range(start: number, stop?: number, step = 1): number[] {
  const from = stop === undefined ? 0 : start;
  const to = stop ?? start;
  if (step === 0 || Math.abs((to - from) / step) > RANGE_LIMIT) throw new Error(`range(${from}, ${to}, ${step}) is not allowed`);
  const list: number[] = [];
  for (let i = from; step > 0 ? i < to : i > to; i += step) list.push(i);
  return list;
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
