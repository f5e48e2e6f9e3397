import { createRequire } from 'node:module';
import { ArmatureError } from '@armature/contracts';
import type { Predictor } from './predictor.ts';

/** Fewer values say nothing of an order: the last one goes on. */
const MIN_VALUES = 16;

interface Model {
  train(values: readonly number[]): Model;
  predict(steps: number): readonly [readonly number[], readonly number[]];
  destroy(): void;
}
type Arima = new (options: Readonly<Record<string, number | boolean>>) => Model;

export interface ArimaOptions {
  readonly window: number;
  readonly p: number;
  readonly d: number;
  readonly q: number;
}

/** ARIMA(p, d, q) over the last `window` values, fitted anew per tick by the package `arima` (WebAssembly; about a millisecond). */
export class ArimaPredictor implements Predictor {
  readonly #options: ArimaOptions;
  readonly #arima: Arima;
  readonly #values: number[];

  /** Throws `PLANNER_PREDICTOR_UNAVAILABLE`. */
  constructor(options: ArimaOptions) {
    this.#options = options;
    this.#arima = load();
    this.#values = [];
  }

  observe(value: number): void {
    this.#values.push(value);
    if (this.#values.length > this.#options.window) this.#values.shift();
  }

  /** Where the fit says nothing usable, the last value. */
  predict(steps: number): number {
    const last = this.#values[this.#values.length - 1];
    if (this.#values.length < MIN_VALUES || this.#values.every((value) => value === last)) return last;
    const { p, d, q } = this.#options;
    const model = new this.#arima({ p, d, q, verbose: false });
    try {
      const expected = model.train(this.#values).predict(steps)[0][steps - 1];
      return Number.isFinite(expected) ? expected : last;
    } catch {
      return last;
    } finally {
      model.destroy();
    }
  }
}

function load(): Arima {
  try {
    return createRequire(import.meta.url)('arima') as Arima;
  } catch (error) {
    throw new ArmatureError('PLANNER_PREDICTOR_UNAVAILABLE', `the predictor arima needs the package arima: ${(error as Error).message.split('\n')[0]}`, { hint: 'npm install arima, or choose another predictor', cause: error });
  }
}
