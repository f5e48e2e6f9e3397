// Node 20 has both methods; TypeScript declares them only from lib es2024 on.
interface WellFormed {
  isWellFormed(): boolean;
  toWellFormed(): string;
}

/** Lone surrogates (JSON can carry them) become U+FFFD, as everything that speaks UTF-8 sees them. */
export function wellFormed(text: string): string {
  const methods = text as unknown as WellFormed;
  return methods.isWellFormed() ? text : methods.toWellFormed();
}
