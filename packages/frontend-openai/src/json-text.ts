// @hot
const NEEDS_CARE = /["\\\u0000-\u001f\ud800-\udfff]/;

/**
 * The inside of a JSON string literal. Most fragments need nothing and come back as they are; the rest (quotes, controls, surrogates,
 * which may be lone) take the engine's own escaping.
 */
export function escapeJson(text: string): string {
  return NEEDS_CARE.test(text) ? JSON.stringify(text).slice(1, -1) : text;
}

/** A logarithm JSON can carry: clients expect a number, and -Infinity is not one. -9999 is what OpenAI and vLLM send. */
export function jsonLogprob(value: number): string {
  return value >= -9999 ? String(value === 0 ? 0 : value) : '-9999';
}

/** `[1,2,3]`. */
export function jsonBytes(bytes: Uint8Array): string {
  let text = '[';
  for (let i = 0; i < bytes.length; i++) text += i === 0 ? bytes[i]! : `,${bytes[i]!}`;
  return `${text}]`;
}
