/** Edits (insert, delete, replace, swap of neighbours) from one word to the other. */
export function editDistance(a: string, b: string): number {
  let beforeLast: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const cost = a[i - 1] === b[j - 1] ? 0 : 1;
      row[j] = Math.min((last[j] as number) + 1, (row[j - 1] as number) + 1, (last[j - 1] as number) + cost);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) row[j] = Math.min(row[j], (beforeLast[j - 2] as number) + 1);
    }
    beforeLast = last;
    last = row;
  }
  return last[b.length] as number;
}

/** The candidate a person most likely meant, or undefined when none is close. */
export function nearest(word: string, candidates: Iterable<string>): string | undefined {
  const wanted = word.toLowerCase();
  let best: string | undefined;
  let bestDistance = Math.max(2, Math.floor(word.length / 3)) + 1;
  for (const candidate of candidates) {
    const text = candidate.toLowerCase();
    // `maxTokens` for `max_tokens`: separators and case do not count; a long common start counts as near.
    const plain = text.replace(/[-_]/g, '') === wanted.replace(/[-_]/g, '');
    const starts = wanted.length >= 3 && (text.startsWith(wanted) || wanted.startsWith(text)) && text.length >= 3;
    const distance = plain ? 0 : starts ? Math.min(1.5, editDistance(wanted, text)) : editDistance(wanted, text);
    if (distance < bestDistance) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}

/** `did you mean "router"?`, or the list of what is there, or undefined when nothing is. */
export function suggestion(word: string, candidates: readonly string[], what: string): string | undefined {
  const near = nearest(word, candidates);
  if (near !== undefined) return `did you mean "${near}"?`;
  if (candidates.length === 0) return undefined;
  const shown = candidates.slice(0, 12).map((name) => `"${name}"`);
  return `${what}: ${shown.join(', ')}${candidates.length > 12 ? ', …' : ''}`;
}
