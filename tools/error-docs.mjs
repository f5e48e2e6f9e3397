// Generates docs/reference/errors.md from the sources: every error code, where it is thrown, its message and what to do about it.
// `--check` writes nothing and fails when the page is out of date. A code reaches the page from
//   new ArmatureError('CODE', message, { hint }) · { code: 'CODE', message, hint } · ArmatureError.from(x, 'CODE') · fail('CODE', message, …)
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

const root = fileURLToPath(new URL('..', import.meta.url));
const page = join(root, 'docs/reference/errors.md');
const CODE = /^[A-Z][A-Z0-9]+(_[A-Z0-9]+)+$/;

/** For codes whose message is not written where they are made. */
const NOTES = {
  CONFIG_CHECK_FAILED: 'what the check of a plug-in reports',
  CONFIG_INVALID: 'every problem of the configuration, one a line, each with its own code',
  CONFIG_SYNTAX: 'what the YAML parser says',
  INTERNAL_ERROR: 'what an unexpected exception says',
  PLANNER_CONNECTOR_FAILED: 'what the scaling connector threw',
  PLANNER_POLICY_FAILED: 'what the planner policy threw',
  PLANE_HANDLER_FAILED: 'what a stream handler or sink threw',
};

/** @returns {{ code: string, package: string, file: string, message: string, hint: string }[]} every place that makes an error. */
export function collectErrors(packages = packageNames()) {
  return packages.flatMap((name) => sourceFiles(join(root, 'packages', name, 'src')).flatMap((file) => errorsOf(file, name)));
}

export function packageNames() {
  return readdirSync(join(root, 'packages')).filter((name) => existsSync(join(root, 'packages', name, 'src'))).sort();
}

function sourceFiles(folder) {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts') && !file.includes('.test.') && !/(^|\/)(testing|test-support|testkit)\//.test(file))
    .sort()
    .map((file) => join(folder, file));
}

function errorsOf(file, name) {
  const text = readFileSync(file, 'utf8');
  if (!/'[A-Z][A-Z0-9]+_[A-Z0-9_]+'/.test(text)) return [];
  const source = ts.createSourceFile(file, text, ts.ScriptTarget.Latest, true);
  const found = [];
  const add = (codes, message, hint) => {
    for (const code of codes) found.push({ code, package: name, file: relative(root, file), message: wording(message), hint: wording(hint) });
  };
  const visit = (node) => {
    if (ts.isNewExpression(node) && node.expression.getText() === 'ArmatureError') {
      const [code, message, options] = node.arguments ?? [];
      add(codesIn(code), message, property(options, 'hint'));
    } else if (ts.isCallExpression(node)) {
      const [first, ...rest] = node.arguments;
      const [message, hint] = rest.filter(isText);
      if (node.expression.getText().endsWith('ArmatureError.from')) add(codesIn(rest[0]), undefined, undefined);
      else if (first !== undefined && ts.isStringLiteral(first) && CODE.test(first.text) && message !== undefined) {
        add([first.text], message, rest.map((item) => property(item, 'hint')).find((item) => item !== undefined) ?? hint);
      }
    } else if (ts.isObjectLiteralExpression(node) && property(node, 'code') !== undefined && property(node, 'message') !== undefined) {
      add(codesIn(property(node, 'code')), property(node, 'message'), property(node, 'hint'));
    }
    ts.forEachChild(node, visit);
  };
  visit(source);
  return found;
}

function codesIn(node) {
  const codes = [];
  const visit = (at) => {
    if (ts.isStringLiteral(at) && CODE.test(at.text)) codes.push(at.text);
    ts.forEachChild(at, visit);
  };
  if (node !== undefined) visit(node);
  return codes;
}

function isText(node) {
  return ts.isStringLiteralLike(node) || ts.isTemplateExpression(node) || ts.isConditionalExpression(node);
}

function property(node, name) {
  if (node === undefined || !ts.isObjectLiteralExpression(node)) return undefined;
  for (const item of node.properties) {
    if (ts.isPropertyAssignment(item) && item.name.getText() === name) return item.initializer;
    if (ts.isShorthandPropertyAssignment(item) && item.name.text === name) return item.name;
  }
  return undefined;
}

/** The text with `{…}` where a value goes; '' when it is not written at the place. */
function wording(node) {
  if (node === undefined) return '';
  if (ts.isStringLiteralLike(node)) return node.text;
  if (ts.isTemplateExpression(node)) return node.head.text + node.templateSpans.map((span) => `{${slot(span.expression)}}${span.literal.text}`).join('');
  if (ts.isConditionalExpression(node)) return [wording(node.whenTrue), wording(node.whenFalse)].filter((text) => text !== '').join(' / ');
  if (ts.isBinaryExpression(node)) return [wording(node.left), wording(node.right)].filter((text) => text !== '').join(' ');
  return '';
}

/** The last word of an expression, when it is one. */
function slot(node) {
  const text = node.getText().replace(/^this\.#?/, '');
  return /^[\w.#?]+$/.test(text) ? text.split(/[.#?]+/).at(-1) : '…';
}

export function errorPage(errors = collectErrors()) {
  const codes = new Map();
  for (const error of errors) {
    const entry = codes.get(error.code) ?? { packages: new Set(), messages: new Set(), hints: new Set() };
    codes.set(error.code, entry);
    entry.packages.add(error.package);
    if (NOTES[error.code] !== undefined) entry.messages.add(NOTES[error.code]);
    if (error.message !== '') entry.messages.add(error.message);
    if (error.hint !== '') entry.hints.add(error.hint);
  }
  const cell = (texts) => [...texts].slice(0, 4).join('<br>').replaceAll('|', '\\|').replaceAll('\n', ' ').replace(/<(?!br>)/g, '&lt;');
  const rows = [...codes].sort(([a], [b]) => (a < b ? -1 : 1)).map(([code, entry]) => `| \`${code}\` | ${[...entry.packages].join(', ')} | ${cell(entry.messages)} | ${cell(entry.hints)} |`);
  return `# Error codes

Codes are API: programs may test for them; messages may change. \`{…}\` stands for what was found. Generated by \`node tools/error-docs.mjs\`.

| code | package | message | what to do |
|---|---|---|---|
${rows.join('\n')}
`;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const wanted = errorPage();
  const current = existsSync(page) ? readFileSync(page, 'utf8') : '';
  if (!process.argv.includes('--check')) writeFileSync(page, wanted);
  else if (wanted !== current) {
    process.stderr.write('docs/reference/errors.md is out of date: run node tools/error-docs.mjs\n');
    process.exitCode = 1;
  }
}
