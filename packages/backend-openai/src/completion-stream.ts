import { ArmatureError } from '@armature/contracts';
import type { Output } from './output.ts';
import { refusal, truncated } from './problems.ts';
import type { Running } from './running.ts';
import { SseParser } from './sse.ts';
import { wholeText } from './upstream.ts';
import type { Answer } from './upstream.ts';
import { parseChunk, usageOf } from './wire.ts';
import type { CompletionChunk } from './wire.ts';

/**
 * Reads one answer to its end, so that its connection can be used again, and ends the request. Throws when the answer is not whole: then, and only
 * then, the request has not ended yet.
 */
export async function readCompletion(answer: Answer, running: Running, output: Output): Promise<void> {
  if (answer.statusCode !== 200) throw refusal(answer.statusCode, await wholeText(answer));
  const type = String(answer.headers['content-type'] ?? '');
  const reader = new CompletionReader(running, output);
  if (type.includes('json')) reader.event(await wholeText(answer)); // a server that does not stream
  else if (type === '' || type.includes('event-stream')) await readEvents(answer, reader);
  else {
    // Left unread, the body would keep its connection.
    const text = await wholeText(answer);
    throw new ArmatureError('OPENAI_STREAM_INVALID', `the server answered with ${JSON.stringify(type)}: ${JSON.stringify(text.slice(0, 80))}`, { retryable: true, hint: 'is there a proxy before it that answers with a page of its own?' });
  }
  reader.finish();
}

async function readEvents(answer: Answer, reader: CompletionReader): Promise<void> {
  const parser = new SseParser((data) => reader.event(data));
  try {
    for await (const bytes of answer.body as AsyncIterable<Uint8Array>) parser.push(bytes);
  } catch (error) {
    if (!reader.isComplete) throw error; // else only the goodbye is missing
  }
}

class CompletionReader {
  readonly #running: Running;
  readonly #output: Output;
  #usage: CompletionChunk['usage'];
  #isDone: boolean;

  constructor(running: Running, output: Output) {
    this.#running = running;
    this.#output = output;
    this.#usage = undefined;
    this.#isDone = false;
  }

  get isComplete(): boolean {
    return this.#output.isComplete;
  }

  event(data: string): void {
    if (this.#isDone || this.#running.hasEnded) return;
    this.#running.heard();
    if (data === '[DONE]') {
      this.#isDone = true;
      this.finish(); // now, not when the server closes
      return;
    }
    const chunk = parseChunk(data);
    if (chunk.usage !== undefined && chunk.usage !== null) this.#usage = chunk.usage;
    this.#output.take(chunk);
    this.#running.deliver();
  }

  /** Throws `OPENAI_STREAM_TRUNCATED`. */
  finish(): void {
    if (this.#running.hasEnded) return;
    if (!this.isComplete) throw truncated(this.#isDone ? 'the stream ended with [DONE], and not every choice has a finish reason' : 'the answer ended before every choice had a finish reason');
    this.#running.end({ type: 'finished', usage: usageOf(this.#usage, this.#running.request, this.#output.tokens) });
  }
}
