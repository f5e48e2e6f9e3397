import { ArmatureError } from '@armature/contracts';

/** Exit codes by class of failure; documented in docs/reference/exit-codes.md. */
export const ExitCode = {
  Ok: 0,
  Internal: 1,
  Usage: 2,
  Config: 3,
  Plugin: 4,
  Model: 5,
  Listen: 6,
  Unreachable: 7,
} as const;

const CLASSES: readonly (readonly [RegExp, number])[] = [
  [/^(USAGE_|TRACE_INVALID$|TUNE_)/, ExitCode.Usage],
  [/^(CONFIG_|SIMULATION_NO_MODEL$|SERVING_(ROLE_UNSUPPORTED|BLOCK_SIZE_MISMATCH)$|VLLM_(CONFIG_ADDRESS|SERVE_FLAG|BLOCK_SIZE_MISMATCH)$)/, ExitCode.Config],
  [/^PLUGIN_/, ExitCode.Plugin],
  [/^HTTP_|_LISTEN_FAILED$|_PORT_TAKEN$/, ExitCode.Listen],
  [/^(CHAT_|CONTROL_|PLANE_|(ADMIN|VLLM)_UNREACHABLE$|SERVING_ROLE_(NEEDS_RESTART|FIXED)$|SERVING_WORKER_(DRAINING|FAILED)$)/, ExitCode.Unreachable],
  // Behind those that say more of some of their codes.
  [/^(MODEL_|PREPROCESSOR_|ENGINE_|VLLM_|TRTLLM_)/, ExitCode.Model],
];

export function exitCodeOf(error: unknown): number {
  const code = ArmatureError.is(error) ? error.code : '';
  return CLASSES.find(([pattern]) => pattern.test(code))?.[1] ?? ExitCode.Internal;
}

/** What a person sees: message, hint, code. Stack traces only for internal errors. */
export function describeError(error: unknown): string {
  if (!ArmatureError.is(error)) return error instanceof Error ? (error.stack ?? error.message) : String(error);
  const hint = error.hint === undefined ? '' : `\n  → ${error.hint}`;
  return `${error.message}${hint}\n  [${error.code}]`;
}
