import { ArmatureError } from '@armature/contracts';

/** One thing that is wrong with a configuration. Lines and columns count from 1; 0 where the file has no such place. */
export interface ConfigProblem {
  readonly code: string;
  /** `models[0].router`; '' is the file itself. */
  readonly path: string;
  readonly message: string;
  readonly file: string;
  readonly line: number;
  readonly column: number;
  readonly hint?: string;
}

/** `file.yaml:12:5 CONFIG_UNKNOWN_KEY models[0].routr: unknown key "routr"; did you mean "router"?` */
export function problemText(problem: ConfigProblem): string {
  const place = problem.line > 0 ? `${problem.file}:${problem.line}:${problem.column}` : problem.file;
  const path = problem.path === '' ? '' : ` ${problem.path}`;
  return `${place} ${problem.code}${path}: ${problem.message}${problem.hint === undefined ? '' : `; ${problem.hint}`}`;
}

/** All problems as one error, sorted by place; `details.problems` holds them as data. */
export function configInvalid(found: readonly ConfigProblem[]): ArmatureError {
  const problems = found.toSorted((a, b) => a.line - b.line || a.column - b.column || a.path.localeCompare(b.path));
  return new ArmatureError('CONFIG_INVALID', problems.map(problemText).join('\n'), {
    hint: problems.length === 1 ? 'correct the line named above' : `correct the ${problems.length} places named above`,
    details: { problems },
  });
}

/** The problems inside a `CONFIG_INVALID` error; empty for any other value. */
export function configProblems(error: unknown): readonly ConfigProblem[] {
  if (!ArmatureError.is(error) || error.code !== 'CONFIG_INVALID') return [];
  return (error.details['problems'] as readonly ConfigProblem[] | undefined) ?? [];
}
