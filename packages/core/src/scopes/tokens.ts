/** Tokens of the services that core itself registers in the process container. `Symbol.for`: copies of this package agree. */
export const CoreToken = {
  clock: Symbol.for('armature/core/clock'),
  random: Symbol.for('armature/core/random'),
  log: Symbol.for('armature/core/log'),
  metrics: Symbol.for('armature/core/metrics'),
  health: Symbol.for('armature/core/health'),
  codec: Symbol.for('armature/core/codec'),
  admin: Symbol.for('armature/core/admin'),
} as const;

/** Token of the instances of a kind in a scope. */
export function kindToken(kind: string): symbol {
  return Symbol.for(`armature/kind/${kind}`);
}
