// Chats in the demo model's language, and long ones for KV that is worth moving.

const NAMES = ['Biscuit', 'Rufus', 'Bandit', 'Pepper', 'Mocha', 'Shadow', 'Toffee', 'Ziggy', 'Maple', 'Comet'];
const CITIES = ['Oslo', 'Cairo', 'Paris', 'London', 'Berlin', 'Madrid', 'Rome', 'Vienna', 'Prague', 'Lisbon'];
const FOODS = ['pizza', 'rice', 'soup', 'bread', 'salad', 'curry', 'tacos', 'beans'];
const KIN = ['sister', 'brother', 'mother', 'uncle', 'friend', 'boss'];

export function seeded(seed) {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const below = (bound) => Math.floor(next() * bound);
  return { below, pick: (items) => items[below(items.length)] };
}

/** `count` chats of 1 to `turns` rounds. No two begin alike. */
export function chats(count, { seed = 1, turns = 5, salt = 'chat' } = {}) {
  const random = seeded(seed);
  return Array.from({ length: count }, (_, n) => {
    const kin = random.pick(KIN);
    const messages = [{ role: 'system', content: `You are a helpful assistant. This is ${salt} ${n}.` }];
    for (let i = 0; i <= random.below(turns); i++) {
      messages.push({ role: 'user', content: `My cat is called ${random.pick(NAMES)}. My ${kin} lives in ${random.pick(CITIES)}. My number is ${10 + random.below(90)}. I like to eat ${random.pick(FOODS)}.` });
      messages.push({ role: 'assistant', content: 'Okay, I will remember all of that.' });
    }
    messages.push({ role: 'user', content: random.pick(['What is my cat called?', `Where does my ${kin} live?`, 'What is my number?', 'What do I like to eat?']) });
    return messages;
  });
}

/** Calls `one` on every item, a few at a time, and keeps the order. */
export async function inGroups(items, atOnce, one) {
  const results = [];
  for (let i = 0; i < items.length; i += atOnce) results.push(...(await Promise.all(items.slice(i, i + atOnce).map((item, k) => one(item, i + k)))));
  return results;
}
