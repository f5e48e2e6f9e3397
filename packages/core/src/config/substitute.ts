export interface Substituted {
  readonly value: unknown;
  /** Variables that were used. */
  readonly variables: readonly string[];
  readonly missing: readonly string[];
  readonly malformed: string | undefined;
}

const PATTERN = /\$\$\{|\$\{([^}]*)\}?/g;
const REFERENCE = /^([A-Za-z_][A-Za-z0-9_]*)(?::-([\s\S]*))?$/;

/** Replaces `${VAR}` and `${VAR:-default}`; `$${` stays as `${`. An unquoted scalar gets its type after replacement. */
export function substitute(text: string, env: Readonly<Record<string, string | undefined>>, isPlain: boolean): Substituted {
  const variables: string[] = [];
  const missing: string[] = [];
  let malformed: string | undefined;
  const replaced = text.replace(PATTERN, (whole, inner: string | undefined) => {
    if (inner === undefined) return '${';
    const match = whole.endsWith('}') ? REFERENCE.exec(inner) : null;
    if (match === null) {
      malformed ??= whole;
      return '';
    }
    const name = match[1] as string;
    const value = env[name];
    if (value !== undefined && (value !== '' || match[2] === undefined)) {
      variables.push(name);
      return value;
    }
    if (match[2] === undefined) missing.push(name);
    return match[2] ?? '';
  });
  // A missing variable has no type to complain about a second time.
  const value = missing.length > 0 || malformed !== undefined ? undefined : isPlain ? retype(replaced) : replaced;
  return { value, variables, missing, malformed };
}

/** YAML 1.2 core schema for a plain scalar; empty text stays text. */
function retype(text: string): unknown {
  if (text === 'null' || text === '~') return null;
  if (/^(true|True|TRUE)$/.test(text)) return true;
  if (/^(false|False|FALSE)$/.test(text)) return false;
  if (/^[-+]?[0-9]+$/.test(text)) return Number(text);
  if (/^0x[0-9a-fA-F]+$/.test(text) || /^0o[0-7]+$/.test(text)) return Number(text);
  if (/^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$/.test(text)) return Number(text);
  return text;
}
