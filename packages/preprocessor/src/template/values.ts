// Values of compiled templates are plain JavaScript values; undefined and null are Jinja's undefined and none. Every function
// gives what @huggingface/jinja gives, or throws `giveUp`: then the library renders the whole template from the start.

/** Thrown, without a stack, for whatever is not exactly covered here. Rendering has no side effects, so starting over is safe. */
export const giveUp: Error = Object.freeze(Object.assign(new Error('left to the interpreter'), { stack: '' }));

/** What `namespace()` makes: the only thing whose attributes a template may assign. */
export class Namespace {
  readonly values: Map<string, unknown>;

  constructor() {
    this.values = new Map();
  }
}

/** The variable `loop`. */
export class LoopState {
  index0: number;
  readonly items: readonly unknown[];

  constructor(items: readonly unknown[]) {
    this.index0 = 0;
    this.items = items;
  }

  get(name: string): unknown {
    switch (name) {
      case 'index':
        return this.index0 + 1;
      case 'index0':
        return this.index0;
      case 'first':
        return this.index0 === 0;
      case 'last':
        return this.index0 === this.items.length - 1;
      case 'length':
        return this.items.length;
      case 'revindex':
        return this.items.length - this.index0;
      case 'revindex0':
        return this.items.length - this.index0 - 1;
      case 'previtem':
        return this.items[this.index0 - 1];
      case 'nextitem':
        return this.items[this.index0 + 1];
      default:
        throw giveUp;
    }
  }
}

type Mapping = Readonly<Record<string, unknown>>;

function isMapping(value: unknown): value is Mapping {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

export function isTrue(value: unknown): boolean {
  if (typeof value === 'string' || typeof value === 'boolean' || typeof value === 'number') return Boolean(value);
  if (value === undefined || value === null) return false;
  if (Array.isArray(value)) return value.length > 0;
  if (value instanceof Namespace) return true;
  if (!isMapping(value)) throw giveUp;
  for (const _ in value) return true;
  return false;
}

/** What `{{ value }}` shows. */
export function show(value: unknown): string {
  if (typeof value === 'string') return value;
  if (value === undefined || value === null) return '';
  if (Number.isInteger(value)) return String(value);
  throw giveUp;
}

/** object.name, object['name'], object[index] */
export function member(object: unknown, key: unknown): unknown {
  if (typeof key === 'string') {
    if (isMapping(object)) {
      if (Object.hasOwn(object, key)) return object[key];
      if (METHODS.has(key)) throw giveUp;
      return undefined;
    }
    if (object instanceof LoopState) return object.get(key);
    if (object instanceof Namespace) return object.values.get(key);
    if (object === undefined || object === null) return undefined;
    throw giveUp; // built-in attributes of strings and lists
  }
  if (Array.isArray(object) && Number.isInteger(key)) return object.at(key as number);
  throw giveUp;
}

/** Attributes that every mapping has unless a key hides them. */
const METHODS = new Set(['get', 'items', 'keys', 'values', 'dictsort']);

export function slice(object: unknown, start: unknown, stop: unknown, step: unknown): unknown[] {
  if (!Array.isArray(object)) throw giveUp;
  for (const bound of [start, stop, step]) if (bound !== undefined && !Number.isInteger(bound)) throw giveUp;
  const length = object.length;
  const by = (step as number | undefined) ?? 1;
  const from = start as number | undefined;
  const to = stop as number | undefined;
  const out: unknown[] = [];
  if (by === 0) throw giveUp;
  if (by > 0) {
    const end = clamp(to ?? length, length, 0, length);
    for (let i = clamp(from ?? 0, length, 0, length); i < end; i += by) out.push(object[i]);
    return out;
  }
  const end = to === undefined ? -1 : to < -1 ? Math.max(length + to, -1) : Math.min(to, length - 1);
  for (let i = clamp(from ?? length - 1, length, -1, length - 1); i > end; i += by) out.push(object[i]);
  return out;
}

function clamp(index: number, length: number, least: number, most: number): number {
  return index < 0 ? Math.max(length + index, least) : Math.min(index, most);
}

const isScalar = (value: unknown): boolean => value === undefined || value === null || typeof value === 'string' || typeof value === 'boolean' || typeof value === 'number';

/** The library compares values loosely, as JavaScript does. */
export function equals(left: unknown, right: unknown): boolean {
  if (!isScalar(left) || !isScalar(right)) throw giveUp;
  // oxlint-disable-next-line eqeqeq
  return left == right;
}

export function contains(container: unknown, value: unknown): boolean {
  if (container === undefined) return false;
  if (typeof value !== 'string') throw giveUp;
  if (typeof container === 'string') return container.includes(value);
  if (Array.isArray(container)) return container.includes(value);
  if (isMapping(container)) return Object.hasOwn(container, value);
  throw giveUp;
}

export function add(left: unknown, right: unknown): unknown {
  if (typeof left === 'string' && typeof right === 'string') return left + right;
  if (isInteger(left) && isInteger(right)) return left + right;
  if ((typeof left === 'string' && isInteger(right)) || (isInteger(left) && typeof right === 'string')) return String(left) + String(right);
  throw giveUp;
}

/** left ~ right */
export function join(left: unknown, right: unknown): string {
  if ((typeof left === 'string' || isInteger(left)) && (typeof right === 'string' || isInteger(right))) return String(left) + String(right);
  throw giveUp;
}

function isInteger(value: unknown): value is number {
  return Number.isInteger(value);
}

const ARITHMETIC: Readonly<Record<string, (a: number, b: number) => unknown>> = {
  '-': (a, b) => a - b,
  '*': (a, b) => a * b,
  '%': (a, b) => a % b,
  '<': (a, b) => a < b,
  '>': (a, b) => a > b,
  '<=': (a, b) => a <= b,
  '>=': (a, b) => a >= b,
};

/** Operators over two integers; undefined for any other operator. */
export function integerOperator(operator: string): ((left: unknown, right: unknown) => unknown) | undefined {
  if (!Object.hasOwn(ARITHMETIC, operator)) return undefined;
  const apply = ARITHMETIC[operator];
  return (left, right) => {
    if (!isInteger(left) || !isInteger(right)) throw giveUp;
    const result = apply(left, right);
    if (typeof result === 'number' && !Number.isInteger(result)) throw giveUp; // % 0
    return result;
  };
}

const STRING_METHODS: Readonly<Record<string, (text: string) => unknown>> = {
  strip: (text) => text.trim(),
  lstrip: (text) => text.trimStart(),
  rstrip: (text) => text.trimEnd(),
  upper: (text) => text.toUpperCase(),
  lower: (text) => text.toLowerCase(),
};

const STRING_ARGUMENT_METHODS: Readonly<Record<string, (text: string, argument: string) => unknown>> = {
  startswith: (text, start) => text.startsWith(start),
  endswith: (text, end) => text.endsWith(end),
  split: (text, separator) => {
    if (separator === '') throw giveUp;
    return text.split(separator);
  },
};

/** object.name(args) */
export function callMethod(object: unknown, name: string, args: readonly unknown[]): unknown {
  if (typeof object === 'string') {
    if (args.length === 0 && Object.hasOwn(STRING_METHODS, name)) return STRING_METHODS[name](object);
    if (args.length === 1 && typeof args[0] === 'string' && Object.hasOwn(STRING_ARGUMENT_METHODS, name)) return STRING_ARGUMENT_METHODS[name](object, args[0]);
  }
  if (name === 'get' && isMapping(object) && !Object.hasOwn(object, 'get') && args.length >= 1 && args.length <= 2 && typeof args[0] === 'string') {
    // The library's undefined is a value of its own, so a key that is there wins even when it is undefined.
    if (Object.hasOwn(object, args[0])) return object[args[0]];
    return args.length === 2 ? args[1] : null;
  }
  throw giveUp;
}

export function filter(value: unknown, name: string): unknown {
  if (typeof value === 'string') {
    if (name === 'trim') return value.trim();
    if (name === 'upper' || name === 'lower') return STRING_METHODS[name](value);
    if (name === 'length') return value.length;
  } else if (Array.isArray(value)) {
    if (name === 'length') return value.length;
    if (name === 'list') return value;
    if (value.length > 0 && name === 'first') return value[0];
    if (value.length > 0 && name === 'last') return value[value.length - 1];
  }
  throw giveUp;
}

const TESTS: Readonly<Record<string, (value: unknown) => boolean>> = {
  defined: (value) => value !== undefined,
  undefined: (value) => value === undefined,
  none: (value) => value === null,
  string: (value) => typeof value === 'string',
  mapping: (value) => isMapping(value),
  iterable: (value) => typeof value === 'string' || Array.isArray(value),
  sequence: (value) => typeof value === 'string' || Array.isArray(value) || isMapping(value),
  boolean: (value) => typeof value === 'boolean',
  true: (value) => value === true,
  false: (value) => value === false,
  number: (value) => typeof value === 'number',
};

/** A test by name; undefined: not covered here. */
export function test(name: string): ((value: unknown) => boolean) | undefined {
  if (!Object.hasOwn(TESTS, name)) return undefined;
  const check = TESTS[name];
  return (value) => {
    if (value instanceof LoopState) throw giveUp; // a mapping to the library
    return check(value);
  };
}

/** What `for` goes over. */
export function iterate(value: unknown): readonly unknown[] {
  if (Array.isArray(value)) return value;
  throw giveUp;
}
