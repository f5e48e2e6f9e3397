import type { KvOperation } from '@armature/contracts';
import { commonRun } from './directory.ts';
import type { Directory } from './directory.ts';

export interface ProbeOptions {
  readonly directory: Directory;
  readonly blocksPerObject: number;
  readonly maxAsked: number;
  readonly hashes: Int32Array;
  readonly from: number;
  /** Questions live longer than the walk: an answer that comes too late for it serves the next. */
  readonly askUntilMs: number;
  /** Known already from here on without asking. */
  readonly known: (from: number) => number;
  readonly isKnown: (row: number) => boolean;
  /** An object was found: `count` blocks from `row` on. */
  readonly found: (row: number, count: number) => void;
  readonly failed: (error: unknown) => void;
}

/** Objects asked for ahead before the first one was found: a prompt that nobody stored costs no more. */
const FIRST_WINDOW = 4;

/**
 * Walks a chain from object to object: the object named by row `p` holds `k` of its blocks, the next one is named by row `p + k`. Where objects are cut as usual, the next
 * names are known in advance and asked for at the same time; the window doubles with each hit.
 */
export function walk(options: ProbeOptions, done: (blocks: number) => void): KvOperation {
  const { directory, hashes, from, blocksPerObject } = options;
  const rows = hashes.length >> 1;
  const counts = new Map<number, number>();
  const asked = new Set<number>();
  let at = from;
  let window = FIRST_WINDOW;
  let isDone = false;

  const finish = (): void => {
    if (isDone) return;
    isDone = true;
    done(at - from);
  };
  const ask = (row: number): void => {
    if (row >= rows || asked.has(row) || asked.size - counts.size >= options.maxAsked) return;
    asked.add(row);
    const [lo, hi] = [hashes[row * 2]!, hashes[row * 2 + 1]!];
    const answered = (count: number): void => {
      counts.set(row, count);
      if (!isDone) advance();
    };
    if (directory.isMissing(lo, hi)) return void counts.set(row, 0); // read by `advance`, which asked
    directory.ask(lo, hi, options.askUntilMs).then(
      (chain) => {
        const count = typeof chain === 'string' ? 0 : commonRun(chain, hashes, row);
        if (count > 0) options.found(row, count);
        answered(count);
      },
      (error: unknown) => {
        options.failed(error);
        answered(0);
      },
    );
  };
  /**
   * Nothing begins at row `at`; but where chains fork, the object that led here may overlap another one, which began in its middle and goes on. Its name is one of the rows
   * before. Undefined: not known yet. Not where objects are cut as usual: none of known position crosses that.
   */
  const across = (): number | undefined => {
    if (at === from || at % blocksPerObject === 0) return at;
    let reached = at;
    let isKnown = true;
    for (let row = Math.max(from, at - blocksPerObject + 1); row < at; row++) {
      ask(row);
      const count = counts.get(row);
      if (count === undefined) isKnown = false;
      else reached = Math.max(reached, row + count);
    }
    return reached > at ? reached : isKnown ? at : undefined;
  };
  const advance = (): void => {
    for (;;) {
      at += options.known(at);
      if (at >= rows) return finish();
      if (!asked.has(at)) ask(at);
      const count = counts.get(at);
      if (count === undefined) break;
      if (count === 0) {
        const reached = across();
        if (reached === undefined) break;
        if (reached === at) return finish();
        at = reached;
        continue;
      }
      at += count;
      window = Math.min(options.maxAsked, window * 2);
    }
    let next = (Math.floor(at / blocksPerObject) + 1) * blocksPerObject;
    for (let ahead = 1; ahead < window && next < rows; ahead++, next += blocksPerObject) if (!options.isKnown(next)) ask(next);
  };
  advance();
  return { cancel: finish };
}
