import { testRandom } from './random.ts';

const NAMES = ['Biscuit', 'Rufus', 'Bandit', 'Pepper', 'Mocha', 'Shadow', 'Toffee', 'Ziggy', 'Maple', 'Comet'];
const CITIES = ['Oslo', 'Cairo', 'Paris', 'London', 'Berlin', 'Madrid', 'Rome', 'Vienna', 'Prague', 'Lisbon'];
const FOODS = ['pizza', 'rice', 'soup', 'bread', 'salad', 'curry', 'tacos', 'beans'];
const JOBS = ['a baker', 'a teacher', 'a pilot', 'a farmer', 'a nurse', 'a writer'];
const PETS = ['cat', 'dog', 'parrot', 'rabbit', 'horse', 'turtle'];
const KIN = ['sister', 'brother', 'mother', 'uncle', 'friend', 'boss'];

export interface Turn {
  readonly role: 'system' | 'user' | 'assistant';
  readonly content: string;
}

/** Chats in the demo model's language: facts, then a question about one of them. Lengths vary so that partial blocks occur. */
export function conversations(count: number, seed: number): Turn[][] {
  const random = testRandom(seed);
  const pick = (items: readonly string[]): string => items[random.below(items.length)] as string;
  return Array.from({ length: count }, () => {
    const turns: Turn[] = random.below(4) === 0 ? [{ role: 'system', content: 'You are a helpful assistant.' }] : [];
    const pet = pick(PETS);
    const kin = pick(KIN);
    const facts = [`My ${pet} is called ${pick(NAMES)}.`, `My ${kin} lives in ${pick(CITIES)}.`, `My number is ${10 + random.below(90)}.`, `I like to eat ${pick(FOODS)}.`, `I work as ${pick(JOBS)}.`];
    for (let i = 0; i < 1 + random.below(3); i++) {
      const said = facts.filter(() => random.below(3) > 0);
      turns.push({ role: 'user', content: said.length === 0 ? 'Hello!' : said.join(' ') });
      turns.push({ role: 'assistant', content: said.length > 1 ? 'Okay, I will remember all of that.' : 'Okay, I will remember that.' });
    }
    turns.push({ role: 'user', content: pick([`What is my ${pet} called?`, `Where does my ${kin} live?`, 'What is my number?', 'What do I like to eat?', 'What is my job?']) });
    return turns;
  });
}
