import { ArmatureError } from '@armature/contracts';
import type { ConfigReport, JsonSchema, PlainData, PluginDescriptor, PluginSlot } from '@armature/contracts';
import type { PluginRegistry } from '../plugins/registry.ts';
import { describeConfig, maskedConfig } from './effective.ts';
import type { ConfigEntry } from './effective.ts';
import { explain } from './explain.ts';
import type { Explanation } from './explain.ts';
import { exportSchema } from './export-schema.ts';
import { pathText, pointerParts } from './path.ts';
import type { PathPart } from './path.ts';
import { configInvalid } from './problems.ts';
import type { ConfigProblem } from './problems.ts';
import { checkRequirements } from './requirements.ts';
import { CORE_SECTIONS, fileSchema } from './schema.ts';
import { schemaProblems } from './schema-problems.ts';
import type { RawProblem } from './schema-problems.ts';
import type { ConfigSource, Origin } from './source.ts';
import { suggestion } from './nearest.ts';
import { validate } from './validate.ts';
import type { SlotMark } from './validate.ts';

/** A slot with everything needed to create its instance. */
export interface ResolvedSlot {
  readonly slot: PluginSlot;
  readonly parts: readonly PathPart[];
  readonly descriptor: PluginDescriptor;
  /** Effective, frozen; slots inside are `PluginSlot` objects. */
  readonly config: Record<string, unknown>;
  /** Slots in this one's own config. */
  readonly inner: readonly ResolvedSlot[];
}

/** What one container will hold: the slots of a node marked `x-scope`, or of the file itself. */
export interface ScopeNode {
  /** `process`, or the word of `x-scope`. */
  readonly kind: string;
  readonly parts: readonly PathPart[];
  readonly parent: ScopeNode | undefined;
  /** In the order of the file. */
  readonly slots: readonly ResolvedSlot[];
  readonly scopes: readonly ScopeNode[];
}

/** The whole configuration after validation: effective values, resolved slots, nested scopes. */
export class ConfigGraph {
  readonly file: string;
  readonly registry: PluginRegistry;
  readonly root: PluginDescriptor<'deployment'>;
  /** Effective top level as the root descriptor gets it. */
  readonly config: Record<string, unknown>;
  readonly core: { readonly plugins: readonly string[]; readonly log: { readonly level: string; readonly format: string } };
  readonly processScope: ScopeNode;
  readonly origins: ReadonlyMap<string, Origin>;
  readonly secretPaths: ReadonlySet<string>;
  readonly slots: ReadonlyMap<PluginSlot, ResolvedSlot>;
  readonly #scopeOf: WeakMap<object, ScopeNode>;
  readonly #env: Readonly<Record<string, string | undefined>>;

  constructor(built: Built, source: ConfigSource, options: GraphOptions) {
    this.file = source.file;
    this.registry = options.registry;
    this.root = options.root;
    this.config = built.config;
    this.core = built.core;
    this.processScope = built.processScope;
    this.origins = source.origins;
    this.secretPaths = built.secretPaths;
    this.slots = built.slots;
    this.#scopeOf = built.scopeOf;
    this.#env = options.env;
  }

  /** The scope of an object of the effective config. Throws `SCOPE_NODE_UNKNOWN`. */
  scopeNode(node: object): ScopeNode {
    const found = this.#scopeOf.get(node);
    if (found !== undefined) return found;
    throw new ArmatureError('SCOPE_NODE_UNKNOWN', 'openScope was given an object that is not a scope of the effective configuration', {
      hint: 'pass the object itself (not a copy) of a place whose schema has x-scope',
    });
  }

  /** Effective configuration as plain data, `x-secret` values masked. */
  masked(): PlainData {
    return maskedConfig(this);
  }

  /** Every value with where it came from: `file:line`, `default`, `environment NAME`. */
  entries(): readonly ConfigEntry[] {
    return describeConfig(this);
  }

  /** What a key means; indices may be left out (`models.router`). Undefined when no schema has it. */
  explainKey(path: string): Explanation | undefined {
    return explain(this, path);
  }

  /** JSON Schema of the whole file with the known plug-ins inlined, for editors. */
  jsonSchema(): JsonSchema {
    return exportSchema(this.root, this.registry);
  }

  /** Values marked `x-secret`, for the log to hide; of the environment variables they were made from, too. */
  secretValues(): readonly string[] {
    const values = new Set<string>();
    for (const entry of describeConfig(this, false)) {
      if (!entry.isSecret || typeof entry.value !== 'string') continue;
      values.add(entry.value);
      for (const name of entry.variables) values.add(this.#env[name] ?? '');
    }
    values.delete('');
    return [...values];
  }
}

export interface GraphOptions {
  readonly root: PluginDescriptor<'deployment'>;
  readonly registry: PluginRegistry;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Kinds that are given from outside (overrides), so that requirements may count on them. */
  readonly givenKinds?: ReadonlySet<string>;
}

interface Built {
  readonly config: Record<string, unknown>;
  readonly core: ConfigGraph['core'];
  readonly processScope: ScopeNode;
  readonly secretPaths: ReadonlySet<string>;
  readonly slots: ReadonlyMap<PluginSlot, ResolvedSlot>;
  readonly scopeOf: WeakMap<object, ScopeNode>;
}

interface Validated {
  /** Slots that belong to the value itself, not to a scope inside it. */
  readonly inner: ResolvedSlot[];
  readonly isValid: boolean;
}

interface MutableScope {
  readonly kind: string;
  readonly parts: readonly PathPart[];
  readonly parent: MutableScope | undefined;
  readonly slots: ResolvedSlot[];
  readonly scopes: MutableScope[];
}

/** Validates a file against the root descriptor and all plug-ins it names. Throws one `CONFIG_INVALID` with every problem. */
export function buildGraph(source: ConfigSource, earlier: readonly ConfigProblem[], options: GraphOptions): ConfigGraph {
  const builder = new Builder(source, earlier, options);
  const built = builder.build();
  if (builder.problems.length > 0) throw configInvalid(builder.problems);
  return new ConfigGraph(built, source, options);
}

class Builder {
  readonly problems: ConfigProblem[];
  readonly #source: ConfigSource;
  readonly #options: GraphOptions;
  readonly #secretPaths = new Set<string>();
  readonly #slots = new Map<PluginSlot, ResolvedSlot>();
  readonly #scopeOf = new WeakMap<object, ScopeNode>();
  /** Places already complained about (missing variables, failed plug-ins): one cause, one problem. */
  readonly #broken: ReadonlySet<string>;

  constructor(source: ConfigSource, earlier: readonly ConfigProblem[], options: GraphOptions) {
    this.#source = source;
    this.#options = options;
    this.problems = [...source.problems, ...earlier];
    this.#broken = new Set(source.problems.map((problem) => problem.path));
  }

  build(): Built {
    const { root } = this.#options;
    const process: MutableScope = { kind: 'process', parts: [], parent: undefined, slots: [], scopes: [] };
    const hasSyntax = this.problems.some((problem) => problem.code === 'CONFIG_SYNTAX');
    const value = this.#source.value;
    if (!hasSyntax) {
      const { inner, isValid } = this.#validate(fileSchemaOf(root.configSchema), value, [], process, `deployment "${root.name}"`);
      process.slots.push(...inner);
      this.#check(root, rootConfig(root, value), [], isValid);
      // A slot without a plug-in says nothing about what it would have required or provided.
      if (!this.problems.some(({ code }) => code === 'CONFIG_UNKNOWN_PLUGIN' || code === 'CONFIG_MISSING_KEY' || code.startsWith('PLUGIN_'))) {
        checkRequirements(process, root, this.#options.givenKinds ?? new Set(), (problem) => this.#add(problem));
      }
    }
    const config = rootConfig(root, value);
    freeze(config);
    const log = (value['log'] ?? {}) as { level?: string; format?: string };
    return {
      config,
      core: { plugins: (value['plugins'] ?? []) as string[], log: { level: log.level ?? 'info', format: log.format ?? 'json' } },
      processScope: process,
      secretPaths: this.#secretPaths,
      slots: this.#slots,
      scopeOf: this.#scopeOf,
    };
  }

  /** Validates `value`, fills its defaults and replaces its slots in place. */
  #validate(schema: JsonSchema, value: Record<string, unknown>, base: readonly PathPart[], scope: MutableScope, owner: string): Validated {
    let result;
    try {
      result = validate(schema, value, owner);
    } catch (error) {
      const known = ArmatureError.from(error);
      this.#add({ code: known.code, path: base, message: known.message, hint: known.hint });
      return { inner: [], isValid: false };
    }
    for (const problem of schemaProblems(result.errors, value)) this.#add(this.#withSlotHint({ ...problem, path: [...base, ...problem.path] }, result.slots, value, base));
    for (const pointer of result.secrets) this.#secretPaths.add(pathText([...base, ...pointerParts(pointer, value)]));
    const scopes = scope.kind === 'process' && base.length === 0 ? this.#scopes(result.scopes, value, scope) : [];
    const own: ResolvedSlot[] = [];
    const marks = result.slots.map((mark) => ({ mark, parts: pointerParts(mark.pointer, value) }));
    marks.sort((a, b) => comparePaths(a.parts, b.parts, value));
    for (const { mark, parts } of marks) {
      const home = scopes.findLast((candidate) => isBelow(parts, candidate.parts));
      const resolved = this.#slot(mark.kind, mark.value, [...base, ...parts], home ?? scope);
      if (resolved === undefined) continue;
      mark.parent[mark.key] = resolved.slot;
      (home?.slots ?? own).push(resolved);
    }
    return { inner: own, isValid: result.errors.length === 0 };
  }

  /** A key of the plug-in's own config, written beside `use` instead of under `config`. */
  #withSlotHint(problem: RawProblem, marks: readonly SlotMark[], value: unknown, base: readonly PathPart[]): RawProblem {
    if (problem.code !== 'CONFIG_UNKNOWN_KEY') return problem;
    const owner = pathText(problem.path.slice(0, -1));
    const mark = marks.find(({ pointer }) => pathText([...base, ...pointerParts(pointer, value)]) === owner);
    const descriptor = mark === undefined ? undefined : this.#options.registry.find(mark.kind, String(mark.value['use']));
    const key = problem.path.at(-1) as string;
    if (!isMapping(descriptor?.configSchema['properties']) || !(key in descriptor.configSchema['properties'])) return problem;
    return { ...problem, hint: `write it under config: { use: ${descriptor.name}, config: { ${key}: … } }` };
  }

  /** Outer scopes first, so that the last one that holds a path is the innermost. */
  #scopes(found: readonly { readonly pointer: string; readonly kind: string; readonly value: object }[], value: unknown, process: MutableScope): MutableScope[] {
    const scopes: MutableScope[] = [];
    const marks = found.map((mark) => ({ mark, parts: pointerParts(mark.pointer, value) }));
    marks.sort((a, b) => a.parts.length - b.parts.length);
    for (const { mark, parts } of marks) {
      const parent = scopes.findLast((candidate) => isBelow(parts, candidate.parts)) ?? process;
      const scope: MutableScope = { kind: mark.kind, parts, parent, slots: [], scopes: [] };
      parent.scopes.push(scope);
      scopes.push(scope);
      this.#scopeOf.set(mark.value, scope);
    }
    return scopes;
  }

  #slot(kind: string, value: Record<string, unknown>, parts: readonly PathPart[], scope: MutableScope): ResolvedSlot | undefined {
    const use = value['use'];
    if (typeof use !== 'string') return undefined;
    const descriptor = this.#options.registry.find(kind, use);
    if (descriptor === undefined) {
      const names = this.#options.registry.names(kind);
      this.#add({
        code: 'CONFIG_UNKNOWN_PLUGIN',
        path: [...parts, 'use'],
        message: `there is no ${kind} "${use}"`,
        hint: suggestion(use, names, `known ${kind} plug-ins`) ?? `no ${kind} is installed: name its package under plugins`,
      });
      return undefined;
    }
    const config = isMapping(value['config']) ? value['config'] : {};
    const configPath = [...parts, 'config'];
    const { inner, isValid } = this.#validate(descriptor.configSchema, config, configPath, scope, `${kind} "${use}"`);
    const facts = isValid ? descriptor.facts?.(config as never) : undefined;
    const slot: PluginSlot = Object.freeze({ kind: kind as PluginSlot['kind'], use, path: pathText(parts), ...(facts === undefined ? {} : { facts }) });
    const resolved: ResolvedSlot = { slot, parts, descriptor, config, inner };
    this.#slots.set(slot, resolved);
    this.#check(descriptor, config, configPath, isValid);
    freeze(config);
    return resolved;
  }

  /** A config that breaks its schema is checked as far as that goes, so that every problem is told at once. */
  #check(descriptor: { readonly name: string; check?(config: never, report: ConfigReport): void }, config: unknown, base: readonly PathPart[], isValid: boolean): void {
    if (descriptor.check === undefined) return;
    const report: ConfigReport = ({ code, path, message, hint }) => this.#add({ code: code ?? 'CONFIG_CHECK_FAILED', path: [...base, ...path], message, hint });
    try {
      descriptor.check(config as never, report);
    } catch (error) {
      if (!isValid) return; // it may rely on what the schema promises
      this.#add({ code: 'PLUGIN_CHECK_THREW', path: base, message: `the check of "${descriptor.name}" threw: ${ArmatureError.from(error).message}`, hint: 'this is a bug of the plug-in: check must report, not throw' });
    }
  }

  #add(problem: RawProblem): void {
    const path = pathText(problem.path);
    if (this.#broken.has(path)) return;
    const place = this.#place(problem.path, problem.atKey === true || problem.code === 'CONFIG_MISSING_KEY');
    const same = this.problems.some((known) => known.path === path && known.code === problem.code && known.message === problem.message);
    if (same) return;
    this.problems.push({
      code: problem.code,
      path,
      message: problem.message,
      file: this.#source.file,
      line: place.line,
      column: place.column,
      ...(problem.hint === undefined ? {} : { hint: problem.hint }),
    });
  }

  /** The value's place, or its key's, or the nearest enclosing place for what is not in the file. */
  #place(parts: readonly PathPart[], atKey: boolean): { line: number; column: number } {
    for (let length = parts.length; length >= 0; length--) {
      const origin = this.#source.origins.get(pathText(parts.slice(0, length)));
      if (origin === undefined) continue;
      return (length === parts.length && !atKey) || typeof parts[length - 1] === 'number' ? origin.value : origin.key;
    }
    return { line: 1, column: 1 };
  }
}

// By schema identity, so that validators stay compiled from boot to boot.
const fileSchemas = new WeakMap<JsonSchema, JsonSchema>();
function fileSchemaOf(root: JsonSchema): JsonSchema {
  let schema = fileSchemas.get(root);
  if (schema === undefined) fileSchemas.set(root, (schema = fileSchema(root)));
  return schema;
}

/** Core's own sections are not part of what the root descriptor gets, unless its schema names them. */
function rootConfig(root: { readonly configSchema: JsonSchema }, value: Record<string, unknown>): Record<string, unknown> {
  const own = (root.configSchema['properties'] ?? {}) as Record<string, unknown>;
  const config: Record<string, unknown> = {};
  for (const [key, item] of Object.entries(value)) if (!(key in CORE_SECTIONS) || key in own) config[key] = item;
  return config;
}

function isMapping(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isBelow(parts: readonly PathPart[], ancestor: readonly PathPart[]): boolean {
  return parts.length > ancestor.length && ancestor.every((part, index) => part === parts[index]);
}

/** Order of the file: by position of each key in its object. */
function comparePaths(a: readonly PathPart[], b: readonly PathPart[], value: unknown): number {
  let node = value as Record<string, unknown>;
  for (let i = 0; i < Math.min(a.length, b.length); i++) {
    if (a[i] !== b[i]) {
      if (typeof a[i] === 'number') return (a[i] as number) - (b[i] as number);
      const keys = Object.keys(node);
      return keys.indexOf(a[i] as string) - keys.indexOf(b[i] as string);
    }
    node = node[a[i] as string] as Record<string, unknown>;
  }
  return a.length - b.length;
}

function freeze(value: unknown): void {
  if (typeof value !== 'object' || value === null || Object.isFrozen(value)) return;
  Object.freeze(value);
  for (const item of Object.values(value)) freeze(item);
}
