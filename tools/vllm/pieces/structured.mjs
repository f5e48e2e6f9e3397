// Structured output: vLLM's guided decoding, asked for by `response_format` through Armature. The demo model knows nothing of JSON: what holds its answers to the schema is the grammar.
import { chats, inGroups } from '../prompts.mjs';
import { BLOCK_SIZE } from '../server.mjs';

const SCHEMA = {
  type: 'object',
  properties: { pet: { enum: ['cat', 'dog', 'fish'] }, legs: { type: 'integer', minimum: 0, maximum: 8 }, isHungry: { type: 'boolean' } },
  required: ['pet', 'legs', 'isHungry'],
  additionalProperties: false,
};
const FORMAT = { type: 'json_schema', json_schema: { name: 'pet', schema: SCHEMA } };

function fits(text) {
  try {
    const { pet, legs, isHungry, ...more } = JSON.parse(text);
    return SCHEMA.properties.pet.enum.includes(pet) && Number.isInteger(legs) && legs >= 0 && legs <= 8 && typeof isHungry === 'boolean' && Object.keys(more).length === 0;
  } catch {
    return false;
  }
}

export async function run({ pair, bench, checks }) {
  const [prefill, decode] = await pair();
  const engine = (server) => `engine: { use: vllm, config: { baseUrl: ${JSON.stringify(server.url)} } }`;
  const yaml = `models:
  - { name: alone, source: ${bench.model}, blockSize: ${BLOCK_SIZE}, workers: [{ name: a, ${engine(decode)} }] }
  - name: split
    source: ${bench.model}
    blockSize: ${BLOCK_SIZE}
    disaggregation: { use: always }
    workers: [{ name: p, role: prefill, ${engine(prefill)} }, { name: d, role: decode, ${engine(decode)} }]
  - { name: mock, source: ${bench.model}, workers: [{ name: m, engine: { use: mock, config: { vocabSize: 1024 } } }] }
`;
  await bench.withArmature(yaml, { workers: 4 }, async ({ client }) => {
    const prompts = chats(8, { seed: 51, turns: 2, salt: 'structured' });
    for (const model of ['alone', 'split']) {
      const ask = (more) => inGroups(prompts, 4, async (messages) => (await client.chat.completions.create({ model, messages, temperature: 0.7, seed: 5, max_tokens: 200, ...more })).choices[0].message.content);
      const guided = await ask({ response_format: FORMAT });
      checks.check(`${model}: every answer fits the schema`, guided.every(fits), guided.every(fits) ? guided[0].slice(0, 120) : guided.filter((text) => !fits(text)));
      const free = await ask({});
      checks.check(`${model}: without the schema none does (so it is what makes them)`, !free.some(fits), free[0].slice(0, 60));
    }
    let streamed = '';
    for await (const chunk of await client.chat.completions.create({ model: 'alone', messages: prompts[0], response_format: FORMAT, stream: true, max_tokens: 200 })) streamed += chunk.choices[0]?.delta.content ?? '';
    checks.check('a stream fits it too', fits(streamed), streamed.slice(0, 120));
    const bad = await client.chat.completions.create({ model: 'alone', messages: prompts[0], response_format: { type: 'json_schema', json_schema: { name: 'x', schema: { type: 'no such type' } } } }).catch((error) => error);
    checks.check('a schema that vLLM cannot use is refused, in its words', bad.status === 400 && /grammar|schema/i.test(bad.message), `${bad.status} ${bad.message?.slice(0, 160)}`);
    const refused = await client.chat.completions.create({ model: 'mock', messages: prompts[0], response_format: FORMAT }).catch((error) => error);
    checks.check('an engine that does no guided decoding is not asked', refused.status === 400 && refused.param === 'response_format', `${refused.status} ${refused.message?.slice(0, 160)}`);
  });
}
