// Same checkpoint, greedy, f32: backend-reference and vLLM give the same tokens.
import { chats, inGroups } from '../prompts.mjs';
import { BLOCK_SIZE } from '../server.mjs';

const PROMPTS = 60;
const MAX_TOKENS = 24;
/**
 * Two correct f32 implementations differ in the order of their sums. A token may differ only where the two best are this close (in log probability) for one of them: then neither is wrong.
 * Everything after such a place is another text and is not compared.
 */
const TIE = 1e-3;
const LOGPROB_DIFFERENCE = 1e-3;

export async function run({ pair, bench, checks }) {
  const [server] = await pair();
  const yaml = `models:
  - { name: reference, source: ${bench.model}, blockSize: ${BLOCK_SIZE}, workers: [{ name: r, engine: { use: reference } }] }
  - { name: vllm, source: ${bench.model}, blockSize: ${BLOCK_SIZE}, workers: [{ name: v, engine: { use: vllm, config: { baseUrl: ${JSON.stringify(server.url)} } } }] }
`;
  await bench.withArmature(yaml, { workers: 2 }, async (armature) => {
    const ask = (model) => inGroups(chats(PROMPTS, { seed: 11, salt: 'equality' }), 4, (messages) => armature.client.chat.completions.create({ model, messages, temperature: 0, max_tokens: MAX_TOKENS, logprobs: true, top_logprobs: 2 }));
    const [reference, vllm] = [await ask('reference'), await ask('vllm')];
    const rows = reference.map((answer, i) => compare(answer, vllm[i]));
    const tokens = rows.reduce((sum, row) => sum + row.tokens, 0);
    const wrong = rows.flatMap((row, i) => (row.different === undefined || row.different.gap < TIE ? [] : [{ prompt: i, ...row.different }]));
    const ties = rows.filter((row) => row.different !== undefined && row.different.gap < TIE);
    const largest = Math.max(...rows.map((row) => row.logprobDifference));
    checks.check(`${PROMPTS} prompts, the same greedy tokens`, wrong.length === 0 && tokens > PROMPTS * 3, wrong.length === 0 ? `${tokens} tokens, ${ties.length} near-ties` : wrong.slice(0, 5));
    for (const { different } of ties) checks.say(`near-tie: ${JSON.stringify(different)}`);
    checks.check('answers differ, so that a wrong one shows', new Set(reference.map((answer) => answer.choices[0].message.content)).size > PROMPTS / 4);
    checks.check('log probabilities agree', largest < LOGPROB_DIFFERENCE, `largest difference ${largest.toExponential(1)}`);
    checks.check('prompt tokens agree', reference.every((answer, i) => answer.usage.prompt_tokens === vllm[i].usage.prompt_tokens));
  });
}

function compare(a, b) {
  const [left, right] = [a.choices[0].logprobs.content, b.choices[0].logprobs.content];
  let logprobDifference = 0;
  for (let i = 0; i < Math.max(left.length, right.length); i++) {
    if (left[i]?.token !== right[i]?.token) return { tokens: i, logprobDifference, different: { at: i, reference: left[i]?.token, vllm: right[i]?.token, gap: Math.min(gapOf(left[i]), gapOf(right[i])) } };
    logprobDifference = Math.max(logprobDifference, Math.abs(left[i].logprob - right[i].logprob));
  }
  return { tokens: left.length, logprobDifference };
}

function gapOf(entry) {
  const [first, second] = entry?.top_logprobs ?? [];
  return first === undefined || second === undefined ? Number.POSITIVE_INFINITY : first.logprob - second.logprob;
}
