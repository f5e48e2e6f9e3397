import { createInterface } from 'node:readline/promises';
import { ArmatureError } from '@armature/contracts';
import { bootFile } from '../boot.ts';
import { describeError, exitCodeOf } from '../exit-codes.ts';
import { ChatClient } from './chat-client.ts';
import type { ChatTurn } from './chat-client.ts';
import { explainRequest } from './explain.ts';

export interface ChatCommandOptions {
  readonly url: string;
  readonly admin: string;
  readonly file?: string;
  readonly model?: string;
  readonly system?: string;
  readonly maxTokens?: number;
  readonly temperature?: number;
  readonly explain: boolean;
}

/** Turns from `messages` (one each), then from the keyboard unless messages were given. */
export async function chat(messages: readonly string[], options: ChatCommandOptions): Promise<void> {
  const app = options.file === undefined ? undefined : await bootFile(options.file, { logLevel: 'warn' });
  try {
    await app?.start();
    const summary = app?.deployment.summary();
    if (app !== undefined && summary?.url === undefined) {
      throw new ArmatureError('CONFIG_NO_FRONTEND', `${options.file} has no frontend to chat with`, { hint: 'add a frontend section' });
    }
    const client = new ChatClient(summary?.url ?? options.url, app === undefined ? options.admin : summary?.adminUrl);
    const model = options.model ?? (await client.firstModel());
    const session = new Session(client, model, options);
    if (messages.length > 0) for (const message of messages) await session.turn(message, true);
    else await repl(session, model);
  } finally {
    await app?.close(5_000);
  }
}

class Session {
  readonly #client: ChatClient;
  readonly #model: string;
  readonly #options: ChatCommandOptions;
  readonly #turns: ChatTurn[] = [];

  constructor(client: ChatClient, model: string, options: ChatCommandOptions) {
    this.#client = client;
    this.#model = model;
    this.#options = options;
    if (options.system !== undefined) this.#turns.push({ role: 'system', content: options.system });
  }

  async turn(message: string, echo: boolean): Promise<void> {
    const { maxTokens, temperature, explain } = this.#options;
    if (echo) process.stdout.write(`you> ${message}\n`);
    process.stdout.write(`${this.#model}> `);
    this.#turns.push({ role: 'user', content: message });
    try {
      const answer = await this.#client.send(this.#turns, { model: this.#model, maxTokens, temperature }, (text) => process.stdout.write(text));
      process.stdout.write('\n');
      this.#turns.push({ role: 'assistant', content: answer.text });
      if (explain) await this.#explain(answer.requestId);
    } catch (error) {
      this.#turns.pop();
      process.stdout.write('\n');
      throw error;
    }
  }

  async #explain(requestId: string): Promise<void> {
    const record = await this.#client.record(requestId);
    process.stdout.write(record === undefined ? '  (nothing to explain: no admin listener answers, or it keeps no records)\n' : `${explainRequest(record)}\n`);
  }
}

async function repl(session: Session, model: string): Promise<void> {
  process.stdout.write(`Chatting with ${model}. An empty line or Ctrl-D ends.\n`);
  const lines = createInterface({ input: process.stdin, output: process.stdout, prompt: 'you> ' });
  let isOpen = true; // a pipe closes it while an answer is awaited
  lines.once('close', () => {
    isOpen = false;
  });
  lines.prompt();
  for await (const line of lines) {
    if (line.trim() === '') break;
    try {
      await session.turn(line, false);
    } catch (error) {
      process.stderr.write(`${describeError(error)}\n`);
      if (!process.stdin.isTTY) process.exitCode = exitCodeOf(error); // a script wants to know; a person has read it
    }
    if (isOpen) lines.prompt();
  }
  lines.close();
}
