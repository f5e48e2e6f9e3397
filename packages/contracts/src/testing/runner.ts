/** The two functions a contract suite needs from a test runner: vitest, node:test, mocha, … */
export interface SuiteRunner {
  describe(name: string, body: () => void): void;
  it(name: string, body: () => void | Promise<void>): unknown;
}

/** One rule of a contract. Throws (AssertionError) when the implementation breaks it. */
export interface ContractRule {
  readonly name: string;
  run(): void | Promise<void>;
}

/** A rule that an implementation knowingly does not keep. The reason is printed, never silent. */
export interface SkippedRule {
  readonly rule: string;
  readonly reason: string;
}

/** Registers rules with a runner. A skip that names no rule fails, so that skips do not outlive their rule. */
export function registerRules(runner: SuiteRunner, title: string, rules: readonly ContractRule[], skip: readonly SkippedRule[] = []): void {
  runner.describe(title, () => {
    for (const { rule } of skip) {
      if (!rules.some(({ name }) => name === rule)) throw new Error(`${title}: cannot skip "${rule}", there is no such rule`);
    }
    for (const rule of rules) {
      const skipped = skip.find((entry) => entry.rule === rule.name);
      if (skipped === undefined) runner.it(rule.name, () => rule.run());
      else runner.it(`${rule.name} (skipped: ${skipped.reason})`, () => {});
    }
  });
}
