import { ArmatureError } from '@armature/contracts';

/** No single event of an engine is this long; a server that sends more is not one. */
const MAX_EVENT_CHARS = 16 << 20;

/**
 * Server-sent events from a byte stream: the `data` of each event, multi-line data joined by newlines, comments and other fields
 * skipped, LF, CRLF or CR line ends, chunks cut anywhere (also inside a character). An event without its closing empty line is dropped.
 */
export class SseParser {
  readonly #decoder = new TextDecoder();
  readonly #onData: (data: string) => void;
  #line: string;
  #data: string[];
  #dataChars: number;
  #endedInCr: boolean;

  constructor(onData: (data: string) => void) {
    this.#onData = onData;
    this.#line = '';
    this.#data = [];
    this.#dataChars = 0;
    this.#endedInCr = false;
  }

  /** Throws `TRTLLM_STREAM_INVALID` on an endless event. */
  push(bytes: Uint8Array): void {
    let text = this.#decoder.decode(bytes, { stream: true });
    if (text === '') return;
    // The other half of a CRLF, once: a second LF is an empty line.
    if (this.#endedInCr && text.startsWith('\n')) text = text.slice(1);
    this.#endedInCr = text.endsWith('\r');
    const lines = (this.#line + text).split(/\r\n|\n|\r/);
    this.#line = lines.pop() ?? '';
    for (const line of lines) this.#take(line);
    if (this.#line.length + this.#dataChars > MAX_EVENT_CHARS) throw new ArmatureError('TRTLLM_STREAM_INVALID', `an event is longer than ${MAX_EVENT_CHARS} characters`);
  }

  #take(line: string): void {
    if (line === '') {
      if (this.#data.length > 0) this.#onData(this.#data.length === 1 ? (this.#data[0] as string) : this.#data.join('\n'));
      this.#data = [];
      this.#dataChars = 0;
    } else if (line.startsWith('data:')) {
      this.#data.push(line.slice(line.startsWith('data: ') ? 6 : 5));
      this.#dataChars += line.length;
    }
  }
}
