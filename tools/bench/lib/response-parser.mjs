// Just enough HTTP/1.1 to measure: one response after the other on a kept-alive connection, by Content-Length or chunked.
const HEAD_END = Buffer.from('\r\n\r\n');
const EVENT = Buffer.from('data: ');
const [HEAD, FIXED, CHUNK_SIZE, CHUNK, CHUNK_END, TRAILER] = [0, 1, 2, 3, 4, 5];

export class ResponseParser {
  #state = HEAD;
  #left = 0;
  #pending = Buffer.alloc(0);
  #onResponse;
  #onFirstByte;
  #sawBody = false;
  #keep;
  status = 0;
  /** SSE `data:` lines of the current response. */
  events = 0;
  bodyBytes = 0;
  /** Parts of the body, when they are kept. */
  body = [];
  head = '';

  /** `onFirstByte` at the first body byte, `onResponse` after the last one. */
  constructor({ onFirstByte, onResponse, keepBody = false }) {
    this.#onFirstByte = onFirstByte;
    this.#onResponse = onResponse;
    this.#keep = keepBody;
  }

  push(data) {
    let at = 0;
    if (this.#pending.length > 0) {
      data = Buffer.concat([this.#pending, data]);
      this.#pending = Buffer.alloc(0);
    }
    while (at < data.length) {
      if (this.#state === HEAD) {
        const end = data.indexOf(HEAD_END, at);
        if (end === -1) break;
        this.#begin(data.toString('latin1', at, end));
        at = end + 4;
        if (this.#state === FIXED && this.#left === 0) this.#finish();
      } else if (this.#state === FIXED || this.#state === CHUNK) {
        const take = Math.min(this.#left, data.length - at);
        this.#body(data, at, at + take);
        at += take;
        this.#left -= take;
        if (this.#left > 0) continue;
        if (this.#state === FIXED) this.#finish();
        else this.#state = CHUNK_END;
      } else {
        const end = data.indexOf('\r\n', at);
        if (end === -1) break;
        if (this.#state === CHUNK_END) this.#state = CHUNK_SIZE;
        else if (this.#state === CHUNK_SIZE) {
          this.#left = Number.parseInt(data.toString('latin1', at, end), 16);
          this.#state = this.#left === 0 ? TRAILER : CHUNK;
        } else if (end === at) this.#finish();
        at = end + 2;
      }
    }
    if (at < data.length) this.#pending = data.subarray(at);
  }

  #begin(head) {
    this.head = head;
    this.status = Number(head.slice(9, 12));
    this.events = 0;
    this.bodyBytes = 0;
    this.body = [];
    this.#sawBody = false;
    if (/^transfer-encoding:\s*chunked/im.test(head)) this.#state = CHUNK_SIZE;
    else {
      this.#state = FIXED;
      this.#left = Number(/^content-length:\s*(\d+)/im.exec(head)?.[1] ?? 0);
    }
  }

  #body(data, from, to) {
    if (!this.#sawBody) {
      this.#sawBody = true;
      this.#onFirstByte();
    }
    this.bodyBytes += to - from;
    if (this.#keep) this.body.push(Buffer.from(data.subarray(from, to)));
    // An event that straddles two reads is missed here; the count is a check on completeness, not a measurement.
    for (let at = data.indexOf(EVENT, from); at !== -1 && at < to; at = data.indexOf(EVENT, at + 6)) this.events++;
  }

  #finish() {
    this.#state = HEAD;
    this.#onResponse(this);
  }
}
