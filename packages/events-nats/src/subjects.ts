/**
 * Our subjects are any text with slashes; those of NATS are non-empty tokens of plain characters with dots. Token by token: bytes of the
 * UTF-8 form other than letters, digits, `_` and `-` become `=XX`, an empty token becomes `=`. Reversible, and order is not touched.
 */
export function toNatsSubject(root: string, subject: string): string {
  return `${root}.${subject.split('/').map(escapeToken).join('.')}`;
}

/** The narrowest wildcard over all subjects that start with `prefix`; it also matches siblings of an unfinished last token. */
export function toWildcard(root: string, prefix: string): string {
  const finished = prefix.split('/').slice(0, -1);
  return [root, ...finished.map(escapeToken), '>'].join('.');
}

/** Undefined: none that `toNatsSubject` makes. */
export function fromNatsSubject(root: string, subject: string): string | undefined {
  if (!subject.startsWith(`${root}.`)) return undefined;
  try {
    return subject
      .slice(root.length + 1)
      .split('.')
      .map((token) => (token === '=' ? '' : decodeURIComponent(token.replaceAll('=', '%'))))
      .join('/');
  } catch {
    return undefined;
  }
}

const PLAIN = /^[A-Za-z0-9_-]+$/;

function escapeToken(token: string): string {
  if (PLAIN.test(token)) return token;
  if (token === '') return '=';
  let escaped = '';
  for (const byte of Buffer.from(token, 'utf8')) {
    const character = String.fromCharCode(byte);
    escaped += PLAIN.test(character) ? character : `=${byte.toString(16).padStart(2, '0').toUpperCase()}`;
  }
  return escaped;
}
