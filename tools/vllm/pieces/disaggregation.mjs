// Engine-native disaggregation: vLLM's NixlConnector moves the KV, we pass kv_transfer_params between the legs. Same greedy tokens as aggregated.
import { sumOf } from '../check.mjs';
import { chats, inGroups } from '../prompts.mjs';
import { BLOCK_SIZE } from '../server.mjs';

const PROMPTS = 60;
const MAX_TOKENS = 24;
const EXTERNAL_HITS = 'vllm:external_prefix_cache_hits_total';

export async function run({ pair, bench, checks }) {
  const [prefill, decode] = await pair();
  const engine = (server) => `engine: { use: vllm, config: { baseUrl: ${JSON.stringify(server.url)} } }`;
  const yaml = `models:
  - name: split
    source: ${bench.model}
    blockSize: ${BLOCK_SIZE}
    disaggregation: { use: always }
    workers: [{ name: p, role: prefill, ${engine(prefill)} }, { name: d, role: decode, ${engine(decode)} }]
  - { name: alone, source: ${bench.model}, blockSize: ${BLOCK_SIZE}, workers: [{ name: a, ${engine(decode)} }] }
`;
  await bench.withArmature(yaml, { workers: 3 }, async (armature) => {
    const prompts = chats(PROMPTS, { seed: 23, turns: 8, salt: 'disaggregation' });
    const ask = async (model) => inGroups(prompts, 4, (messages) => armature.client.chat.completions.create({ model, messages, temperature: 0, max_tokens: MAX_TOKENS, logprobs: true }));
    for (const server of [prefill, decode]) await server.resetCache();
    const before = await decode.metrics();
    const split = await ask('split');
    const after = await decode.metrics();
    await decode.resetCache(); // else it would answer from the KV that was moved
    const alone = await ask('alone');
    const hits = sumOf(after, EXTERNAL_HITS) - sumOf(before, EXTERNAL_HITS);
    const moved = sumOf(after, 'vllm:prompt_tokens_by_source_total', ['external_kv_transfer']) - sumOf(before, 'vllm:prompt_tokens_by_source_total', ['external_kv_transfer']);
    const words = (answer) => JSON.stringify(answer.choices[0].logprobs.content.map(({ token }) => token));
    const different = split.flatMap((answer, i) => (words(answer) === words(alone[i]) ? [] : [i]));
    const promptTokens = split.reduce((sum, answer) => sum + answer.usage.prompt_tokens, 0);
    checks.check(`${PROMPTS} prompts, disaggregated gives the tokens of aggregated`, different.length === 0, different.length === 0 ? `${promptTokens} prompt tokens` : different);
    checks.check('every prefill was remote', (await armature.counter('armature_remote_prefills_total')) === PROMPTS, await armature.counter('armature_remote_prefills_total'));
    // vLLM computes the last prompt token itself, and takes nothing of a partial block less than it.
    checks.check("vLLM counts the prompts as external hits", hits >= promptTokens * 0.9 && hits <= promptTokens, `${hits} of ${promptTokens} tokens, by source ${moved}`);
    const records = await armature.get('/requests?limit=200');
    const isSplit = (record) => record.decisions.some(({ hop }) => hop === 'prefill') && record.decisions.some(({ hop }) => hop === 'decode');
    checks.check('the records name both hops', records.filter((record) => record.model === 'split').every(isSplit), records.length);
  });
}
