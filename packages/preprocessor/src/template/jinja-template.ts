import { Environment, Interpreter, Template } from '@huggingface/jinja';
import { Scope, compileProgram } from './compile.ts';
import type { BlockNode } from './syntax.ts';
import { giveUp } from './values.ts';

/** After so many renderings in a row that had to be interpreted, compiled code is tried only now and then. */
const TRIES = 16;
const RETRY_EVERY = 64;

/** One Jinja template: compiled where that is exact, else rendered by `@huggingface/jinja`, whose output is the definition. */
export class JinjaTemplate {
  /** Renderings by compiled code, and by the library. */
  compiled: number;
  interpreted: number;
  readonly #program: unknown;
  readonly #environment: Environment;
  readonly #globals: Scope;
  readonly #run: (scope: Scope) => string;
  #givenUp: number;

  /** Throws what the parser throws. `globals` may be shadowed by the variables of a rendering. */
  constructor(source: string, globals: Readonly<Record<string, unknown>>) {
    this.compiled = 0;
    this.interpreted = 0;
    this.#program = new Template(source).parsed;
    this.#run = compileProgram(this.#program as BlockNode);
    this.#environment = new Environment();
    this.#globals = new Scope();
    this.#givenUp = 0;
    for (const [name, value] of Object.entries({ ...jinjaGlobals(), ...globals })) {
      this.#environment.set(name, value);
      this.#globals.values.set(name, value);
    }
  }

  render(variables: Readonly<Record<string, unknown>>): string {
    if (this.#givenUp < TRIES || this.interpreted % RETRY_EVERY === 0) {
      const scope = new Scope(this.#globals);
      for (const name in variables) scope.values.set(name, variables[name]);
      try {
        const text = this.#run(scope);
        this.compiled++;
        this.#givenUp = 0;
        return text;
      } catch (error) {
        if (error !== giveUp) throw error;
        this.#givenUp++;
      }
    }
    this.interpreted++;
    // What Template.render does, except that the globals are made once, and that variables may shadow them.
    const scope = new Environment(this.#environment);
    for (const name in variables) if (name !== 'namespace') scope.set(name, variables[name]);
    return (new Interpreter(scope).run(this.#program) as { readonly value: string }).value;
  }
}

/** Jinja's own names. */
function jinjaGlobals(): Record<string, unknown> {
  return {
    true: true,
    True: true,
    false: false,
    False: false,
    none: null,
    None: null,
    range,
    raise_exception: (message: string) => {
      throw new Error(message);
    },
  };
}

/** Longest list that a template may ask for. */
const RANGE_LIMIT = 100_000;

function range(start: number, stop?: number, step = 1): number[] {
  const from = stop === undefined ? 0 : start;
  const to = stop ?? start;
  if (step === 0 || Math.abs((to - from) / step) > RANGE_LIMIT) throw new Error(`range(${from}, ${to}, ${step}) is not allowed`);
  const list: number[] = [];
  for (let i = from; step > 0 ? i < to : i > to; i += step) list.push(i);
  return list;
}
