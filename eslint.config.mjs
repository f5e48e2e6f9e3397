import nx from '@nx/eslint-plugin';
import parser from '@typescript-eslint/parser';

// ESLint holds what needs the project graph or our own words; oxlint (npm run lint) does the rest.
const depConstraints = [
  { sourceTag: 'type:contract', onlyDependOnLibsWithTags: ['type:contract'] },
  { sourceTag: 'type:util', onlyDependOnLibsWithTags: ['type:contract', 'type:util'] },
  { sourceTag: 'type:core', onlyDependOnLibsWithTags: ['type:contract', 'type:util', 'type:core'] },
  { sourceTag: 'type:plugin', onlyDependOnLibsWithTags: ['type:contract', 'type:util'] },
  { sourceTag: 'type:app', onlyDependOnLibsWithTags: ['*'] },
];
const leaves = 'reach time, chance and timers through PluginContext.clock and .random (design: time, chance and failure)';
const timers = ['setTimeout', 'setInterval', 'setImmediate'].map((name) => ({ name, message: leaves }));
const clocks = [
  { object: 'Date', property: 'now', message: leaves },
  { object: 'Math', property: 'random', message: leaves },
  { object: 'performance', property: 'now', message: leaves },
  { object: 'process', property: 'hrtime', message: leaves },
];

export default [
  { ignores: ['**/dist/**', '**/generated/**', '**/node_modules/**', '**/assembly/**', '.cache/**'] },
  {
    files: ['packages/*/src/**/*.ts'],
    languageOptions: { parser, parserOptions: { sourceType: 'module' } },
    plugins: { '@nx': nx },
    rules: {
      '@nx/enforce-module-boundaries': ['error', { depConstraints, allow: [], enforceBuildableLibDependency: false, banTransitiveDependencies: false }],
      'no-restricted-imports': ['error', { patterns: [{ group: ['@armature/*/testing/*'], message: 'contract suites are for tests' }] }],
      'no-restricted-globals': ['error', ...timers],
      'no-restricted-properties': ['error', ...clocks],
    },
  },
  {
    // The leaves: where time, sockets and threads are real.
    files: [
      'packages/core/src/leaves/**/*.ts',
      'packages/cli/src/**/*.ts',
      'packages/http-uws/src/**/*.ts',
      'packages/frontend-openai/src/node-*.ts',
      'packages/nixel/src/leaves/**/*.ts',
      'packages/nixel/src/tcp/**/*.ts',
      'packages/serving/src/tcp-plane/**/*.ts',
    ],
    rules: { 'no-restricted-globals': 'off', 'no-restricted-properties': 'off' },
  },
  {
    files: ['packages/*/src/**/*.test.ts', 'packages/*/src/**/*.test.*.ts', 'packages/*/src/testing/**/*.ts', 'packages/*/src/**/test-*/**/*.ts', 'packages/*/src/**/*.bench.ts'],
    rules: {
      'no-restricted-imports': 'off',
      'no-restricted-globals': 'off',
      'no-restricted-properties': 'off',
    },
  },
];
