import { seeded } from '@armature/contracts/testing/plane-support';
import { describe, expect, it } from 'vitest';
import { fromNatsSubject, toNatsSubject, toWildcard } from './subjects.ts';

/** What a NATS server does with a wildcard that ends in `>`. */
const matches = (wildcard: string, subject: string): boolean => subject.startsWith(wildcard.slice(0, -1)) && subject.length > wildcard.length - 1;

describe('subjects', () => {
  it('any text survives, becomes a legal NATS subject, and is found by every prefix (random, seed 3)', () => {
    const below = seeded(3);
    const pieces = ['a', 'B7', '/', '/', '.', '*', '>', ' ', '=', '%', 'ü', '🦙', '\t', '\n', '_', '-', 'worker'];
    const names = new Map<string, string>();
    for (let i = 0; i < 5000; i++) {
      const subject = Array.from({ length: below(8) }, () => pieces[below(pieces.length)]).join('');
      const mapped = toNatsSubject('root', subject);
      expect(mapped).toMatch(/^root(\.[A-Za-z0-9_=-]+)+$/);
      expect(fromNatsSubject('root', mapped)).toBe(subject);
      expect(names.get(mapped) ?? subject).toBe(subject);
      names.set(mapped, subject);
      const points = [...subject];
      const prefix = points.slice(0, below(points.length + 1)).join('');
      expect(matches(toWildcard('root', prefix), mapped), `${JSON.stringify(prefix)} of ${JSON.stringify(subject)}`).toBe(true);
    }
  });

  it('foreign subjects are none', () => {
    expect(fromNatsSubject('root', 'other.a')).toBeUndefined();
    expect(fromNatsSubject('root', 'root.a=ZZ')).toBeUndefined();
    expect(fromNatsSubject('root', 'root.=FF')).toBeUndefined();
  });
});
