import type { PostProcessorJson } from './tokenizer-json.ts';

/** Ids that go around plain text (`add_special_tokens` in Hugging Face's words); chat templates write theirs themselves. */
export interface SpecialAffixes {
  readonly before: readonly number[];
  readonly after: readonly number[];
}

const none: SpecialAffixes = { before: [], after: [] };

/** Undefined when the post-processor is of a type that is not read here. */
export function specialAffixes(post: PostProcessorJson | null | undefined): SpecialAffixes | undefined {
  if (post === null || post === undefined || post.type === 'ByteLevel') return none;
  if (post.type === 'Sequence') {
    let found = none;
    for (const step of post.processors ?? []) {
      const affixes = specialAffixes(step);
      if (affixes === undefined) return undefined;
      found = { before: [...affixes.before, ...found.before], after: [...found.after, ...affixes.after] };
    }
    return found;
  }
  if (post.type !== 'TemplateProcessing') return undefined;
  const before: number[] = [];
  const after: number[] = [];
  let side = before;
  for (const piece of post.single ?? []) {
    if (piece.Sequence !== undefined) side = after;
    else if (piece.SpecialToken !== undefined) side.push(...(post.special_tokens?.[piece.SpecialToken.id]?.ids ?? []));
  }
  return { before, after };
}
