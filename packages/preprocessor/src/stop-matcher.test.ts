import { expect, test } from 'vitest';
import { StopMatcher } from './stop-matcher.ts';
import { TestRandom } from './tokenizer/random-text.test.helper.ts';

function run(stops: string[], chunks: string[]): { text: string; matched: number; shownEarly: string[] } {
  const matcher = new StopMatcher(stops);
  const shownEarly = chunks.map((chunk) => matcher.push(chunk));
  return { text: shownEarly.join('') + matcher.finish(), matched: matcher.matched, shownEarly };
}

/** The rule, literally: first end, then longest, then first in the list. */
function reference(stops: string[], text: string): { text: string; matched: number } {
  for (let end = 1; end <= text.length; end++) {
    let best = -1;
    stops.forEach((stop, i) => {
      if (stop !== '' && text.slice(0, end).endsWith(stop) && (best < 0 || stop.length > stops[best].length)) best = i;
    });
    if (best >= 0) return { text: text.slice(0, end - stops[best].length), matched: best };
  }
  return { text, matched: -1 };
}

test('holds back only what could still become a stop string', () => {
  expect(run(['END'], ['a', 'E', 'N', 'x', 'EN', 'D', 'more']).shownEarly).toEqual(['a', '', '', 'ENx', '', '', '']);
  expect(run(['END'], ['aE', 'N'])).toEqual({ text: 'aEN', matched: -1, shownEarly: ['a', ''] });
  expect(run(['\n\n', '\n#'], ['x\n', '#']).matched).toBe(1);
  expect(run(['abcd', 'bc'], ['abcd'])).toMatchObject({ text: 'a', matched: 1 });
  expect(run(['bc', 'abc'], ['xabc'])).toMatchObject({ text: 'x', matched: 1 });
  expect(run([''], ['anything'])).toMatchObject({ text: 'anything', matched: -1 });
});

test('the result is the rule\'s, however the text is cut into chunks', () => {
  const seed = 8;
  console.log(`stop-matcher.test seed ${seed}`);
  const random = new TestRandom(seed);
  let matches = 0;
  for (let round = 0; round < 20_000; round++) {
    const word = (max: number): string => Array.from({ length: 1 + random.below(max) }, () => random.pick(['a', 'b', 'c', '😀'])).join('');
    const stops = Array.from({ length: 1 + random.below(4) }, () => word(5));
    const characters = [...word(24)];
    const chunks: string[] = [];
    while (characters.length > 0) chunks.push(characters.splice(0, random.below(4)).join(''));
    const { text, matched } = run(stops, chunks);
    expect({ text, matched }, `seed ${seed} round ${round} ${JSON.stringify({ stops, chunks })}`).toEqual(reference(stops, chunks.join('')));
    if (matched >= 0) matches++;
  }
  expect(matches).toBeGreaterThan(1000);
});
