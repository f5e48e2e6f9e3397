import assert from 'node:assert/strict';
import { ArmatureError } from '../errors.ts';
import type { ChatInput, Preprocessor, TextOutput } from '../preprocessor.ts';
import { registerRules } from './runner.ts';
import type { ContractRule, SkippedRule, SuiteRunner } from './runner.ts';

export interface PreprocessorContractOptions {
  readonly runner: SuiteRunner;
  /** A new preprocessor of the same model each time, independent of all others. */
  create(): Preprocessor | Promise<Preprocessor>;
  readonly skip?: readonly SkippedRule[];
}

/** Texts that any tokenizer of natural language must bring back. */
const texts = [
  'Hello world',
  'The quick brown fox jumps over the lazy dog. 1 + 1 = 2!',
  'line one\nline two\n\n  indented\ttab',
  'naïve café, Größe, Привет, 日本語, 안녕, مرحبا',
  '😀 👍🏽 👨‍👩‍👧 🇩🇪',
  "don't stop: x = {\"a\": [1, 2, 3]};",
];

const chat = (...contents: string[]): ChatInput => ({
  messages: contents.map((content, i) => ({ role: i % 2 === 0 ? 'user' : 'assistant', content })),
  addGenerationPrompt: contents.length % 2 === 1,
  continueFinalMessage: false,
});

/** Tokenizers of the SentencePiece kind drop a leading space. */
const sameText = (actual: string, expected: string, where: string): void => assert.equal(actual.replace(/^ /, ''), expected.normalize('NFC').replace(/^ /, ''), where);

function collect(output: TextOutput, ids: Int32Array): { text: string; chunks: string[] } {
  const chunks = Array.from(ids, (id) => output.push(id));
  return { chunks, text: chunks.join('') + output.finish() };
}

/** The rules of preprocessor v1. */
export function preprocessorRules(create: PreprocessorContractOptions['create']): ContractRule[] {
  return [...cardRules(create), ...encodeRules(create), ...chatRules(create), ...textRules(create), ...stopRules(create), ...tokenRules(create)];
}

function cardRules(create: PreprocessorContractOptions['create']): ContractRule[] {
  return [
    {
      name: 'card: complete, consistent, and the same for the same model',
      async run() {
        const [{ card }, { card: again }] = [await create(), await create()];
        assert.ok(card.vocabSize > 0 && card.maxModelTokens > 0);
        assert.notEqual(card.architecture, '');
        assert.match(card.fingerprint, /^[0-9a-f]{16,}$/);
        for (const id of card.eosTokenIds) assert.ok(Number.isInteger(id) && id >= 0 && id < card.vocabSize, `eos ${id}`);
        assert.deepEqual(again, card);
      },
    },
    {
      name: 'close: may be called twice',
      async run() {
        const preprocessor = await create();
        await preprocessor.close?.();
        await preprocessor.close?.();
      },
    },
  ];
}

function encodeRules(create: PreprocessorContractOptions['create']): ContractRule[] {
  return [
    {
      name: 'encodeText: ids of the vocabulary, the same each time, owned by the caller',
      async run() {
        const preprocessor = await create();
        for (const text of texts) {
          const first = preprocessor.encodeText(text);
          assert.ok(first.tokenIds instanceof Int32Array && first.tokenIds.length > 0, text);
          for (const id of first.tokenIds) assert.ok(id >= 0 && id < preprocessor.card.vocabSize, `${text}: ${id}`);
          assert.ok(first.reusedTokens >= 0 && first.reusedTokens <= first.tokenIds.length);
          const kept = first.tokenIds.slice();
          preprocessor.encodeText(`another text, ${text}`);
          assert.deepEqual(first.tokenIds, kept, `${text}: changed by a later call`);
          first.tokenIds.fill(-1);
          assert.deepEqual(preprocessor.encodeText(text).tokenIds, kept, text);
        }
      },
    },
    {
      name: 'encodeText: takes the empty string, lone surrogates and control characters',
      async run() {
        const preprocessor = await create();
        for (const text of ['', '\ud800', 'a\udc00b', '\u0000\u0001', '\ufeff', '\uffff']) {
          for (const id of preprocessor.encodeText(text).tokenIds) assert.ok(id >= 0 && id < preprocessor.card.vocabSize);
        }
        assert.deepEqual(preprocessor.encodeText('\ud800').tokenIds, preprocessor.encodeText('\ufffd').tokenIds);
      },
    },
  ];
}

function chatRules(create: PreprocessorContractOptions['create']): ContractRule[] {
  return [
    {
      name: 'encodeChat: a conversation that grows has the ids that a new instance gives it',
      async run() {
        const preprocessor = await create();
        if (!preprocessor.card.hasChatTemplate) return;
        const long = 'Some words that make the beginning long enough to be worth keeping. '.repeat(8);
        const turns: string[] = [];
        for (const turn of [`${long}Hello`, 'Hi!', 'What is 1 + 1?', '2', 'And then 😀?']) {
          turns.push(turn);
          const { tokenIds, reusedTokens } = preprocessor.encodeChat(chat(...turns));
          const fresh = (await create()).encodeChat(chat(...turns));
          assert.deepEqual(tokenIds, fresh.tokenIds, `${turns.length} messages`);
          assert.equal(fresh.reusedTokens, 0);
          assert.ok(reusedTokens <= tokenIds.length);
        }
        const edited = ['x', ...turns.slice(1)];
        assert.deepEqual(preprocessor.encodeChat(chat(...edited)).tokenIds, (await create()).encodeChat(chat(...edited)).tokenIds);
      },
    },
    {
      name: 'encodeChat: the last message can be continued',
      async run() {
        const preprocessor = await create();
        if (!preprocessor.card.hasChatTemplate) return;
        const output = preprocessor.openText({ stop: [], keepSpecialTokens: true });
        const input = { ...chat('Say it.', 'It is so'), continueFinalMessage: true };
        const { text } = collect(output, preprocessor.encodeChat(input).tokenIds);
        assert.ok(text.endsWith('It is so'), text);
      },
    },
    {
      name: 'encodeChat: without a template refuses with PREPROCESSOR_NO_TEMPLATE',
      async run() {
        const preprocessor = await create();
        if (preprocessor.card.hasChatTemplate) return;
        assert.throws(() => preprocessor.encodeChat(chat('Hello')), (error) => ArmatureError.is(error) && error.code === 'PREPROCESSOR_NO_TEMPLATE');
      },
    },
  ];
}

function textRules(create: PreprocessorContractOptions['create']): ContractRule[] {
  return [
    {
      name: 'openText: brings encoded text back, never half a character',
      async run() {
        const preprocessor = await create();
        for (const text of texts) {
          const { chunks, text: back } = collect(preprocessor.openText({ stop: [], keepSpecialTokens: false }), preprocessor.encodeText(text).tokenIds);
          for (const chunk of chunks) assert.ok(!/[\ufffd]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/.test(chunk), JSON.stringify(chunk));
          sameText(back, text, text);
        }
      },
    },
    {
      name: 'openText: streams are independent',
      async run() {
        const preprocessor = await create();
        const ids = texts.map((text) => preprocessor.encodeText(text).tokenIds);
        const outputs = texts.map(() => preprocessor.openText({ stop: [], keepSpecialTokens: false }));
        const backs = texts.map(() => '');
        for (let i = 0; i < Math.max(...ids.map((column) => column.length)); i++) {
          outputs.forEach((output, k) => (backs[k] += i < ids[k].length ? output.push(ids[k][i]) : ''));
        }
        outputs.forEach((output, k) => sameText(backs[k] + output.finish(), texts[k], texts[k]));
      },
    },
  ];
}

function stopRules(create: PreprocessorContractOptions['create']): ContractRule[] {
  return [
    {
      name: 'stop: text before the string that ends first, wherever tokens begin and end',
      async run() {
        const preprocessor = await create();
        for (const text of texts) {
          const { tokenIds } = preprocessor.encodeText(text);
          const characters = [...text];
          for (let at = 1; at < characters.length; at += 3) {
            const stop = characters.slice(at, at + 4).join('');
            const output = preprocessor.openText({ stop: ['\u0001never', stop], keepSpecialTokens: false });
            const { text: shown } = collect(output, tokenIds);
            sameText(shown, text.slice(0, text.indexOf(stop)), `${text}, stop ${JSON.stringify(stop)}`);
            assert.equal(output.matchedStop, 1);
            assert.equal(output.push(tokenIds[0]), '');
            assert.equal(output.finish(), '');
          }
        }
      },
    },
    {
      name: 'stop: what only begins like a stop string is shown in the end',
      async run() {
        const preprocessor = await create();
        for (const text of texts) {
          const output = preprocessor.openText({ stop: [`${text.slice(-3)}\u0001`, `${text.slice(0, 4)}\u0002`], keepSpecialTokens: false });
          sameText(collect(output, preprocessor.encodeText(text).tokenIds).text, text, text);
          assert.equal(output.matchedStop, -1);
        }
      },
    },
  ];
}

function tokenRules(create: PreprocessorContractOptions['create']): ContractRule[] {
  return [
    {
      name: 'tokenText, tokenBytes: bytes of the tokens of a text are the bytes of the text; any id is answered',
      async run() {
        const preprocessor = await create();
        const affixes = new Set(preprocessor.encodeText('').tokenIds);
        for (const text of texts) {
          const ids = [...preprocessor.encodeText(text).tokenIds].filter((id) => !affixes.has(id));
          sameText(Buffer.concat(ids.map((id) => preprocessor.tokenBytes(id))).toString('utf8'), text, text);
          for (const id of ids) assert.equal(preprocessor.tokenText(id), Buffer.from(preprocessor.tokenBytes(id)).toString('utf8'));
        }
        for (const id of [0, preprocessor.card.vocabSize - 1, preprocessor.card.vocabSize + 100, -1]) {
          assert.equal(typeof preprocessor.tokenText(id), 'string');
          assert.ok(preprocessor.tokenBytes(id) instanceof Uint8Array);
        }
      },
    },
  ];
}

/** Checks an implementation of preprocessor v1 with any test runner. */
export function preprocessorContract(options: PreprocessorContractOptions): void {
  registerRules(options.runner, 'preprocessor v1', preprocessorRules(options.create), options.skip);
}
