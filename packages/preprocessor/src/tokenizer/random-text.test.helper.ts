/** Seeded generator (xorshift32): tests print the seed they use. */
export class TestRandom {
  #state: number;

  constructor(seed: number) {
    this.#state = (seed ^ 0x9e3779b9) >>> 0 || 1;
  }

  below(bound: number): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x >>> 0;
    return (x >>> 0) % bound;
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)];
  }
}

const WORDS = 'the of and a to in is you that it he was for on are as with his they I at be this have from or one had by word but not what all were we when your can said there'.split(' ');
const CODE = ['if (x) {', '}\n', '  return ', 'const a = ', '=> ', '();', '\t\tfor i in range(10):', 'self.', '// ', '/* */', '#include <', '!=', '&&', '::', '->', '$', '@', '\\n', '"', '`', "'", '[]'];
const SPACES = [' ', '  ', '   ', '    ', '\t', '\n', '\r\n', '\n\n', ' \n', '\r', '\u00a0', '\u2003', '\u3000', '\u200b', '\u000b', '\u000c', '\u2028'];
const EMOJI = ['😀', '👍🏽', '👨‍👩‍👧‍👦', '🇩🇪', '🇯🇵🇺🇸', '❤️', '☺', '🏴󠁧󠁢󠁥󠁮󠁧󠁿', '✌🏿'];
const SCRIPTS = ['日本語のテキスト', '中文', '漢字かな交じり文', '안녕하세요', '한', 'مرحبا', 'שלום', 'नमस्ते', 'สวัสดี', 'Привет', 'Ελληνικά', 'ǅ', 'ﬁ', '𝐀𝐁', '𐍈', '𠮷'];
const MARKS = ['\u0301', '\u0308', '\u0327', '\u20dd', '\u3099', '\u0300\u0301', '\ufe0f', '\u0338'];
const DIGITS = ['0', '7', '12', '123', '1234', '98765432', '3.14', '1,000', '0x1F', '1e-9', '٣', '½', 'Ⅷ', '²', '１２', '𝟙'];
const CONTRACTIONS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'LL", "'Re", "''", "'x", " 's", "n't"];

/** One random text of the kinds that tokenizers get wrong; `special` are added tokens, used whole and broken. */
export function randomText(random: TestRandom, special: readonly string[]): string {
  let text = '';
  const kind = random.below(12);
  const parts = 1 + random.below(kind === 11 ? 3 : 12);
  for (let i = 0; i < parts; i++) text += part(random, kind < 6 ? random.below(11) : kind, special);
  return text;
}

function part(random: TestRandom, kind: number, special: readonly string[]): string {
  switch (kind) {
    case 0:
    case 6:
      return (random.below(4) === 0 ? '' : ' ') + random.pick(WORDS);
    case 1:
      return random.pick(CODE);
    case 2:
    case 7:
      return random.pick(SPACES).repeat(1 + (random.below(8) === 0 ? random.below(40) : 0));
    case 3:
      return random.pick(EMOJI);
    case 4:
      return random.pick(SCRIPTS);
    case 5:
      return random.pick(WORDS) + random.pick(MARKS);
    case 8:
      return random.pick(DIGITS);
    case 9:
      return random.pick(CONTRACTIONS);
    case 10: {
      const token = random.pick(special);
      return random.below(3) === 0 ? token.slice(random.below(token.length), 1 + random.below(token.length)) : token;
    }
    default:
      return codePoints(random);
  }
}

/** Random code points, among them surrogate halves, and long words of few letters. */
function codePoints(random: TestRandom): string {
  const kind = random.below(4);
  if (kind === 0) return Array.from({ length: 1 + random.below(200) }, () => random.pick(['a', 'b', 'th', 'e'])).join('');
  let text = '';
  for (let i = 0, n = 1 + random.below(12); i < n; i++) {
    if (kind === 1) text += String.fromCharCode(random.below(0x10000));
    else text += String.fromCodePoint(kind === 2 ? random.below(0x110000) : random.below(0x800));
  }
  return text;
}
