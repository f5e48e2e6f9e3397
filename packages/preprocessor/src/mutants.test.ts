import { describe, expect, it } from 'vitest';
import type { ChatInput, Preprocessor, TextOutput } from '@armature/contracts';
import { preprocessorRules } from '@armature/contracts/testing/preprocessor';
import { demoFolder, fakeContext } from './fake-context.test.helper.ts';
import { huggingFaceDefaults, huggingface } from './index.ts';

type Change = (inner: Preprocessor) => Partial<Preprocessor>;

/** A working preprocessor with some methods replaced. */
async function broken(change: Change): Promise<Preprocessor> {
  const inner = await huggingface.create(huggingFaceDefaults, fakeContext(demoFolder).context);
  const own: Preprocessor = {
    card: inner.card,
    encodeChat: (input) => inner.encodeChat(input),
    encodeText: (text) => inner.encodeText(text),
    openText: (options) => inner.openText(options),
    tokenText: (id) => inner.tokenText(id),
    tokenBytes: (id) => inner.tokenBytes(id),
    close: () => inner.close?.(),
  };
  return { ...own, ...change(inner) };
}

/** Text output through another one. */
const outputs =
  (change: (output: TextOutput, options: Parameters<Preprocessor['openText']>[0]) => Partial<TextOutput>): Change =>
  (inner) => ({
    openText(options) {
      const output = inner.openText(options);
      const own: TextOutput = { push: (id) => output.push(id), finish: () => output.finish(), get matchedStop() { return output.matchedStop; } };
      return Object.defineProperties(own, Object.getOwnPropertyDescriptors(change(output, options)));
    },
  });

let opened = 0;
const shared = new Int32Array(4096);

/** Each with a word of the rule that must find it. */
const mutants: readonly [string, string, Change][] = [
  ['has another fingerprint each time', 'card:', (inner) => ({ card: { ...inner.card, fingerprint: (++opened).toString(16).padStart(16, '0') } })],
  [
    'throws when closed twice',
    'close:',
    (inner) => {
      let isClosed = false;
      return {
        close: () => {
          if (isClosed) throw new Error('closed already');
          isClosed = true;
          return inner.close?.();
        },
      };
    },
  ],
  [
    'hands out the same memory for every text',
    'owned by the caller',
    (inner) => ({
      encodeText(text) {
        const { tokenIds, reusedTokens } = inner.encodeText(text);
        shared.set(tokenIds);
        return { tokenIds: shared.subarray(0, tokenIds.length), reusedTokens };
      },
    }),
  ],
  [
    'cannot take the empty string',
    'takes the empty string',
    (inner) => ({
      encodeText(text) {
        if (text === '') throw new Error('empty');
        return inner.encodeText(text);
      },
    }),
  ],
  [
    'reuses the tokens of another conversation',
    'a conversation that grows',
    (inner) => {
      let first: Int32Array | undefined;
      return {
        encodeChat(input: ChatInput) {
          const encoded = inner.encodeChat(input);
          first ??= encoded.tokenIds.slice(0, 8);
          const tokenIds = encoded.tokenIds.slice();
          if (input.messages.length > 1 && tokenIds.length > first.length) tokenIds.set(first);
          return { ...encoded, tokenIds };
        },
      };
    },
  ],
  ['ends the message that is to be continued', 'can be continued', (inner) => ({ encodeChat: (input) => inner.encodeChat({ ...input, continueFinalMessage: false }) })],
  [
    'shows half a character',
    'never half a character',
    (inner) => ({
      openText: (options) => (options.stop.length > 0 ? inner.openText(options) : { push: (id) => new TextDecoder().decode(inner.tokenBytes(id)), finish: () => '', matchedStop: -1 }),
    }),
  ],
  [
    'lets streams share what they hold back',
    'streams are independent',
    (inner) => {
      const one = inner.openText({ stop: [], keepSpecialTokens: false });
      return { openText: (options) => (options.stop.length > 0 ? inner.openText(options) : one) };
    },
  ],
  ['shows the stop string', 'stop: text before', outputs((_output, options) => ({ push: options.stop.length === 0 ? (id) => _output.push(id) : (id) => _output.push(id) + (_output.matchedStop >= 0 ? 'stop' : '') }))],
  ['forgets what it held back', 'only begins like a stop', outputs((output, options) => ({ finish: () => (options.stop.length > 0 ? '' : output.finish()) }))],
  ['gives every token one byte', 'tokenText, tokenBytes', () => ({ tokenBytes: () => Uint8Array.of(65) })],
];

describe('the preprocessor suite', () => {
  it.each(mutants)('finds one that %s', async (_what, rule, change) => {
    const failed: string[] = [];
    for (const { name, run } of preprocessorRules(() => broken(change))) {
      try {
        await run();
      } catch {
        failed.push(name);
      }
    }
    expect(failed.some((name) => name.includes(rule)), `failed: ${failed.join(' | ')}`).toBe(true);
    expect(failed.length, `failed: ${failed.join(' | ')}`).toBeLessThanOrEqual(2); // a neighbour may notice too
  });

  it('passes one that is not broken', async () => {
    for (const { run } of preprocessorRules(() => broken(() => ({})))) await run();
  });
});
