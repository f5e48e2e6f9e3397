import { seeded } from './measure.mjs';

/** `count` chat requests as HTTP messages, each with `inputTokens` distinct random words of one token each; the first `distinct` prompts are unlike, then they come again. */
export function chatRequests({ words, count, distinct = count, inputTokens, outputTokens, stream, model, host, port, seed }) {
  const random = seeded(seed);
  const deck = [...words];
  const messages = [];
  for (let n = 0; n < count; n++) {
    if (n >= distinct) {
      messages.push(messages[n % distinct]);
      continue;
    }
    for (let i = 0; i < inputTokens; i++) {
      const j = i + random.below(deck.length - i);
      [deck[i], deck[j]] = [deck[j], deck[i]];
    }
    const content = ` ${deck.slice(0, inputTokens).join(' ')}`;
    const body = JSON.stringify({ model, messages: [{ role: 'user', content }], max_tokens: outputTokens, ignore_eos: true, ...(stream ? { stream: true } : {}) });
    messages.push(
      Buffer.from(`POST /v1/chat/completions HTTP/1.1\r\nhost: ${host}:${port}\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`),
    );
  }
  return messages;
}
