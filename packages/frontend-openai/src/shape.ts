/** The JSON words in which chat and completions differ. Text pieces between which only numbers and escaped strings go. */
export interface Shape {
  readonly route: 'chat' | 'completions';
  readonly idPrefix: string;
  readonly object: string;
  readonly chunkObject: string;
  /** Stream: from the choice's index to its text, and from the text to its logprobs. */
  readonly open: string;
  readonly middle: string;
  /** Stream: the event before the first text, complete; '' = none. */
  readonly first: string;
  /** Stream: from the index of the finishing event to its logprobs. */
  readonly last: string;
  /** Not streamed: as `open` and `middle`. */
  readonly wholeOpen: string;
  readonly wholeMiddle: string;
}

export const CHAT: Shape = {
  route: 'chat',
  idPrefix: 'chatcmpl-',
  object: 'chat.completion',
  chunkObject: 'chat.completion.chunk',
  open: '"delta":{"content":"',
  middle: '"},"logprobs":',
  first: '"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}',
  last: '"delta":{},"logprobs":',
  wholeOpen: '"message":{"role":"assistant","content":"',
  wholeMiddle: '","refusal":null},"logprobs":',
};

export const COMPLETION: Shape = {
  route: 'completions',
  idPrefix: 'cmpl-',
  object: 'text_completion',
  chunkObject: 'text_completion',
  open: '"text":"',
  middle: '","logprobs":',
  first: '',
  last: '"text":"","logprobs":',
  wholeOpen: '"text":"',
  wholeMiddle: '","logprobs":',
};
