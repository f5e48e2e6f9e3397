export { main } from './main.ts';
export { bootFile } from './boot.ts';
export { builtins } from './builtins.ts';
export { ExitCode, exitCodeOf } from './exit-codes.ts';
export { rescoreText } from './commands/rescore.ts';
export type { RescoreReport } from './commands/rescore.ts';
