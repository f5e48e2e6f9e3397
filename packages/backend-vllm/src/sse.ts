import { ArmatureError } from '@armature/contracts';

/** No single event of an engine is this long; a server that sends more is not one. */
const MAX_EVENT_CHARS = 16 << 20;

/**
 * Server-sent events from a byte stream: the `data` of each event, multi-line data joined by newlines, comments and other fields
 * skipped, LF, CRLF or CR line ends, chunks cut anywhere (also inside a character).
 */
export class SseParser {
  readonly #decoder = new TextDecoder();
  readonly #onData: (data: string) => void;
  #line: string;
  #data: string[];
  #endedInCr: boolean;

  constructor(onData: (data: string) => void) {
    this.#onData = onData;
    this.#line = '';
    this.#data = [];
    this.#endedInCr = false;
  }

  /** Throws `VLLM_STREAM_INVALID` on an endless event. */
  push(bytes: Uint8Array): void {
    let text = this.#decoder.decode(bytes, { stream: true });
    if (this.#endedInCr && text.startsWith('\n')) text = text.slice(1);
    if (text !== '') this.#endedInCr = text.endsWith('\r');
    const lines = (this.#line + text).split(/\r\n|\n|\r/);
    this.#line = lines.pop() ?? '';
    for (const line of lines) this.#take(line);
    if (this.#line.length > MAX_EVENT_CHARS) throw new ArmatureError('VLLM_STREAM_INVALID', `an event is longer than ${MAX_EVENT_CHARS} characters`);
  }

  #take(line: string): void {
    if (line === '') {
      if (this.#data.length > 0) this.#onData(this.#data.join('\n'));
      this.#data = [];
    } else if (line.startsWith('data:')) {
      this.#data.push(line.slice(line.startsWith('data: ') ? 6 : 5));
    }
  }
}
