import { isAlias, isMap, isScalar, isSeq, LineCounter, parseDocument } from 'yaml';
import type { Document, Node, Pair, Scalar } from 'yaml';
import type { ConfigProblem } from './problems.ts';
import { pathText } from './path.ts';
import type { PathPart } from './path.ts';
import { substitute } from './substitute.ts';

export interface Place {
  readonly line: number;
  readonly column: number;
}

/** Where a value stands. */
export interface Origin {
  readonly value: Place;
  readonly key: Place;
  /** Names of the environment variables it was made from. */
  readonly variables: readonly string[];
}

export interface ConfigSource {
  readonly file: string;
  readonly value: Record<string, unknown>;
  readonly problems: ConfigProblem[];
  /** By path text. */
  readonly origins: ReadonlyMap<string, Origin>;
}

/** A file may say the same thing a million times through aliases; it may not become that large. */
const MAX_NODES = 100_000;

/** Text → values with their places; `${VAR}` replaced. Syntax errors and missing variables are collected, not thrown. */
export function readSource(text: string, file: string, env: Readonly<Record<string, string | undefined>>): ConfigSource {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, keepSourceTokens: false, uniqueKeys: true });
  const reader = new Reader(document, lines, file, env);
  let lastLine = 0;
  for (const error of [...document.errors, ...document.warnings]) {
    const place = lines.linePos(error.pos[0]);
    // One slip makes the parser complain about everything after it on the line.
    if (place.line === lastLine) continue;
    lastLine = place.line;
    const isVariable = /[{[].*\$\{/.test(text.split('\n')[place.line - 1] ?? '');
    reader.problems.push({
      code: 'CONFIG_SYNTAX',
      path: '',
      message: error.message.split('\n')[0].replace(/ at line \d+, column \d+:?$/, ''),
      file,
      line: place.line,
      column: place.col,
      ...(isVariable ? { hint: 'an unquoted ${…} cannot stand inside { } or [ ]: write that part over several lines' } : {}),
    });
  }
  const value = document.errors.length > 0 ? {} : reader.read();
  return { file, value, problems: reader.problems, origins: reader.origins };
}

class Reader {
  readonly problems: ConfigProblem[] = [];
  readonly origins = new Map<string, Origin>();
  readonly #document: Document.Parsed;
  readonly #lines: LineCounter;
  readonly #file: string;
  readonly #env: Readonly<Record<string, string | undefined>>;
  readonly #open = new Set<Node>();
  #nodes = 0;

  constructor(document: Document.Parsed, lines: LineCounter, file: string, env: Readonly<Record<string, string | undefined>>) {
    this.#document = document;
    this.#lines = lines;
    this.#file = file;
    this.#env = env;
  }

  read(): Record<string, unknown> {
    const root = this.#document.contents;
    if (isMap(root)) return this.#value(root, [], this.#place(root)) as Record<string, unknown>;
    if (root !== null) this.#problem('CONFIG_SYNTAX', [], 'the file is not a mapping of sections', this.#place(root), 'begin with "apiVersion: armature/v1"');
    return {};
  }

  #value(node: Node | null | undefined, path: readonly PathPart[], key: Place): unknown {
    const place = node === null || node === undefined ? key : this.#place(node, key);
    if (++this.#nodes > MAX_NODES) {
      if (this.#nodes === MAX_NODES + 1) {
        this.#problem('CONFIG_TOO_LARGE', path, `the file has more than ${MAX_NODES} values`, place, 'aliases multiply what they name: write less of them');
      }
      return undefined;
    }
    if (isScalar(node)) return this.#scalar(node, path, place, key);
    this.origins.set(pathText(path), { value: place, key, variables: [] });
    if (node === null || node === undefined) return null;
    const target = isAlias(node) ? node.resolve(this.#document) : node;
    if (target === undefined) return undefined;
    if (this.#open.has(target)) {
      this.#problem('CONFIG_SYNTAX', path, 'an alias names the value it stands in', place, 'write the value out');
      return undefined;
    }
    this.#open.add(target);
    const value = this.#collection(target, path, key);
    this.#open.delete(target);
    return value;
  }

  #collection(node: Node, path: readonly PathPart[], key: Place): unknown {
    if (isSeq(node)) return node.items.map((item, index) => this.#value(item as Node, [...path, index], this.#place(item as Node, key)));
    if (isMap(node)) {
      const object: Record<string, unknown> = {};
      for (const pair of node.items) this.#pair(pair as Pair<Node, Node | null>, path, object);
      return object;
    }
    return this.#value(node, path, key);
  }

  #pair(pair: Pair<Node, Node | null>, path: readonly PathPart[], object: Record<string, unknown>): void {
    const place = this.#place(pair.key);
    const name = isScalar(pair.key) ? String(pair.key.source ?? pair.key.value) : undefined;
    if (name === undefined || name === '__proto__') {
      this.#problem('CONFIG_SYNTAX', path, 'a key is not plain text', place, 'write keys as words');
      return;
    }
    if (name === '<<') {
      // YAML 1.1 merge: keys written in the mapping itself win.
      const merged = this.#value(pair.value, path, place);
      for (const part of Array.isArray(merged) ? merged : [merged]) {
        for (const [key, value] of Object.entries((part ?? {}) as Record<string, unknown>)) if (!(key in object)) object[key] = value;
      }
      return;
    }
    object[name] = this.#value(pair.value, [...path, name], place);
  }

  #scalar(node: Scalar, path: readonly PathPart[], place: Place, key: Place): unknown {
    const isText = typeof node.value === 'string';
    const written = isText ? (node.value as string) : (node.source ?? '');
    if (!written.includes('${')) {
      this.origins.set(pathText(path), { value: place, key, variables: [] });
      return typeof node.value === 'bigint' ? Number(node.value) : node.value;
    }
    const result = substitute(written, this.#env, node.type === 'PLAIN');
    this.origins.set(pathText(path), { value: place, key, variables: result.variables });
    for (const name of result.missing) {
      this.#problem('CONFIG_VARIABLE_MISSING', path, `environment variable ${name} is not set`, place, `set ${name}, or write \${${name}:-default}`);
    }
    if (result.malformed !== undefined) {
      this.#problem('CONFIG_VARIABLE_INVALID', path, `"${result.malformed}" is not a variable`, place, 'write ${NAME} or ${NAME:-default}; $${ is a literal ${');
    }
    return result.value;
  }

  #place(node: Node | null | undefined, otherwise: Place = { line: 1, column: 1 }): Place {
    const offset = node?.range?.[0];
    if (offset === undefined) return otherwise;
    const { line, col } = this.#lines.linePos(offset);
    return { line, column: col };
  }

  #problem(code: string, path: readonly PathPart[], message: string, place: Place, hint: string): void {
    this.problems.push({ code, path: pathText(path), message, file: this.#file, line: place.line, column: place.column, hint });
  }
}
