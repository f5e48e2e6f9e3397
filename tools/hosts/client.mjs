// The client of `npm run test:hosts`, run on a host: asks `count` conversations, `inFlight` at a time, and prints what came as one JSON line.
// Usage: client.mjs URL COUNT IN_FLIGHT SEED [SECONDS]: with SECONDS it goes on asking until they are over.
const [url, count, inFlight, seed, seconds] = [process.argv[2], ...process.argv.slice(3).map(Number)];

let state = seed >>> 0;
const below = (bound) => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) % bound;
const pick = (items) => items[below(items.length)];
const prompts = Array.from({ length: count }, () => {
  const [pet, kin] = [pick(['cat', 'dog', 'parrot', 'horse']), pick(['sister', 'brother', 'uncle', 'friend'])];
  const facts = [`My ${pet} is called ${pick(['Biscuit', 'Rufus', 'Pepper', 'Maple'])}.`, `My ${kin} lives in ${pick(['Oslo', 'Cairo', 'Paris', 'Rome'])}.`, `My number is ${10 + below(90)}.`];
  const messages = [{ role: 'user', content: facts.slice(below(2)).join(' ') }, { role: 'assistant', content: 'Okay, I will remember all of that.' }];
  return [...messages, { role: 'user', content: pick([`What is my ${pet} called?`, `Where does my ${kin} live?`, 'What is my number?']) }];
});

async function ask(messages) {
  const startedMs = performance.now();
  try {
    const response = await fetch(`${url}/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'x-request-timeout-ms': '20000' },
      body: JSON.stringify({ model: 'demo', messages, temperature: 0, logprobs: true, max_tokens: 24 }),
      signal: AbortSignal.timeout(30_000),
    });
    const body = await response.json();
    const ms = performance.now() - startedMs;
    if (!response.ok) return { code: body.error?.code ?? `http ${response.status}`, ms };
    return { text: body.choices[0].message.content, logprobs: body.choices[0].logprobs.content.map(({ logprob }) => logprob), ms };
  } catch (error) {
    return { code: error.name === 'TimeoutError' ? 'HUNG' : `client: ${error.message}`, ms: performance.now() - startedMs };
  }
}

const answers = [];
const until = seconds > 0 ? performance.now() + seconds * 1000 : 0;
let next = 0;
await Promise.all(
  Array.from({ length: inFlight }, async () => {
    while (until > 0 ? performance.now() < until : next < count) {
      const at = next++;
      answers[at] = await ask(prompts[at % count]);
    }
  }),
);
console.log(JSON.stringify(answers.map((answer, at) => Object.assign(answer, { prompt: at % count }))));
