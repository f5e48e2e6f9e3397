import { describe, expect, it, test } from 'vitest';
import type { KvEvent } from '../kv-events.ts';
import type { Candidates, KvFollower, LoadFollower, RouterPolicy, RoutingRequest } from '../router-policy.ts';
import { registerRules } from './runner.ts';
import { routerPolicyContract, routerPolicyRules } from './router-policy.ts';

const key = (hashes: Int32Array, i: number): string => `${hashes[i * 2]},${hashes[i * 2 + 1]}`;

/** A correct policy, as plain as can be: the base that the mutants break in one place each. */
class NaivePolicy implements RouterPolicy {
  readonly name: string = 'naive';
  readonly supports = { deterministic: true };
  readonly workers = new Map<number, { last: number; held: Set<string> }>();
  readonly running = new Map<string, number>();
  readonly kv: KvFollower = {
    joined: (slot) => void this.workers.set(slot, { last: 0, held: new Set() }),
    left: (slot) => this.left(slot),
    apply: (slot, event) => this.apply(slot, event),
    restore: (slot, events, lastEventId) => this.restore(slot, events, lastEventId),
  };
  readonly load: LoadFollower = {
    dispatched: (slot, request) => this.dispatched(slot, request),
    firstToken: () => {},
    grown: () => {},
    ended: (slot, id) => this.ended(slot, id),
  };
  scores = 0;
  closed = 0;
  terms: number[] = [];

  score(request: RoutingRequest, candidates: Candidates, costs: Float64Array): void {
    this.scores++;
    for (let i = 0; i < candidates.count; i++) {
      candidates.overlapBlocks[i] = this.overlap(candidates.slots[i], request);
      this.terms[i] = this.cost(request, candidates, i);
      this.write(costs, i, this.terms[i]);
    }
  }
  cost(request: RoutingRequest, candidates: Candidates, i: number): number {
    return request.blocks - candidates.overlapBlocks[i] + [...this.running].reduce((sum, [id, blocks]) => (id.startsWith(`${candidates.slots[i]}/`) ? sum + blocks : sum), 0);
  }
  write(costs: Float64Array, i: number, cost: number): void {
    costs[i] += cost;
  }
  pick(_request: RoutingRequest, candidates: Candidates, costs: Float64Array): number {
    let best = -1;
    for (let i = 0; i < candidates.count; i++) if (costs[i] < (best < 0 ? Infinity : costs[best])) best = i;
    return best;
  }
  explain(request: RoutingRequest, candidates: Candidates, index: number): Record<string, number> {
    return { cost: this.cost(request, candidates, index) };
  }
  close(): void {
    this.closed++;
  }
  overlap(slot: number, request: RoutingRequest): number {
    const held = this.workers.get(slot)?.held;
    let depth = 0;
    if (held === undefined) return depth;
    while (depth < request.blocks && held.has(key(request.sequenceHashes, depth))) depth++;
    return depth;
  }
  left(slot: number): void {
    this.workers.delete(slot);
  }
  restore(slot: number, events: readonly KvEvent[], lastEventId: number): void {
    const worker = this.workers.get(slot);
    if (worker === undefined) return;
    worker.held.clear();
    for (const event of events) this.change(worker.held, event);
    worker.last = lastEventId;
  }
  change(held: Set<string>, event: KvEvent): void {
    if (event.type === 'cleared') held.clear();
    else for (let i = 0; i < event.sequenceHashes.length / 2; i++) held[event.type === 'stored' ? 'add' : 'delete'](key(event.sequenceHashes, i));
  }
  apply(slot: number, event: KvEvent): boolean {
    const worker = this.workers.get(slot);
    if (worker === undefined) return true;
    if (event.eventId <= worker.last) return true;
    if (event.eventId > worker.last + 1) return false;
    worker.last = event.eventId;
    this.change(worker.held, event);
    return true;
  }
  dispatched(slot: number, request: RoutingRequest): void {
    this.running.set(`${slot}/${request.id}`, request.blocks);
  }
  ended(slot: number, id: string): void {
    this.running.delete(`${slot}/${id}`);
  }
}

routerPolicyContract({ runner: { describe, it }, create: () => new NaivePolicy() });

/** Broken policies and the one rule that must catch each. */
const mutants: Record<string, { rule: RegExp; create: () => RouterPolicy }> = {
  'writes NaN when idle': {
    rule: /costs are finite/,
    create: () =>
      Object.assign(
        new (class extends NaivePolicy {
          override write(costs: Float64Array, i: number, cost: number): void {
            costs[i] += i === 64 && costs[i] === 0 && this.workers.size > 0 ? Number.NaN : cost;
          }
        })(),
        { pick: undefined },
      ),
  },
  'overwrites costs': {
    rule: /adds to costs/,
    create: () =>
      new (class extends NaivePolicy {
        override write(costs: Float64Array, i: number, cost: number): void {
          costs[i] = cost;
        }
      })(),
  },
  'writes past the count': {
    rule: /adds to costs/,
    create: () =>
      new (class extends NaivePolicy {
        override score(request: RoutingRequest, candidates: Candidates, costs: Float64Array): void {
          super.score(request, candidates, costs);
          if (candidates.count < costs.length) costs[candidates.count] = 0.5;
        }
      })(),
  },
  'throws for unknown workers': {
    rule: /never told of/,
    create: () =>
      new (class extends NaivePolicy {
        override overlap(slot: number, request: RoutingRequest): number {
          if (this.workers.get(slot) === undefined && this.workers.size === 0) throw new Error('unknown worker');
          return super.overlap(slot, request);
        }
      })(),
  },
  'changes the request': {
    rule: /changes no input/,
    create: () =>
      new (class extends NaivePolicy {
        override score(request: RoutingRequest, candidates: Candidates, costs: Float64Array): void {
          super.score(request, candidates, costs);
          request.promptTokens++;
        }
      })(),
  },
  'changes a load column': {
    rule: /changes no input/,
    create: () =>
      new (class extends NaivePolicy {
        override score(request: RoutingRequest, candidates: Candidates, costs: Float64Array): void {
          super.score(request, candidates, costs);
          if (candidates.count > 0) candidates.activeRequests[0]++;
        }
      })(),
  },
  'rotates but claims to be deterministic': {
    rule: /deterministic is claimed/,
    create: () =>
      new (class extends NaivePolicy {
        override write(costs: Float64Array, i: number, cost: number): void {
          costs[i] += cost + (i === 16 ? this.scores % 2 : 0);
        }
      })(),
  },
  'explains the last score instead of the columns': {
    rule: /explain: terms come from/,
    create: () =>
      new (class extends NaivePolicy {
        override explain = (_request: RoutingRequest, _candidates: Candidates, index: number) => ({ cost: this.terms[index] ?? 0 });
      })(),
  },
  'explains with undefined': {
    rule: /every term/,
    create: () =>
      new (class extends NaivePolicy {
        override explain = () => ({ cost: Number.NaN });
      })(),
  },
  'picks an excluded worker': {
    rule: /not excluded/,
    create: () =>
      new (class extends NaivePolicy {
        override pick = (_r: RoutingRequest, candidates: Candidates): number => (candidates.count > 0 ? 0 : -1);
      })(),
  },
  'counts blocks, not the prefix': {
    rule: /unbroken prefix/,
    create: () =>
      new (class extends NaivePolicy {
        override overlap(slot: number, request: RoutingRequest): number {
          let held = 0;
          for (let i = 0; i < request.blocks; i++) if (this.workers.get(slot)?.held.has(key(request.sequenceHashes, i))) held++;
          return held;
        }
      })(),
  },
  'applies late events': {
    rule: /duplicate or late|restore takes over/,
    create: () =>
      new (class extends NaivePolicy {
        override apply(slot: number, event: KvEvent): boolean {
          const worker = this.workers.get(slot);
          if (worker && event.eventId <= worker.last) worker.last = event.eventId - 1;
          return super.apply(slot, event);
        }
      })(),
  },
  'refuses duplicates': {
    rule: /duplicate or late|restore takes over/,
    create: () =>
      new (class extends NaivePolicy {
        override apply(slot: number, event: KvEvent): boolean {
          return event.eventId <= (this.workers.get(slot)?.last ?? 0) ? false : super.apply(slot, event);
        }
      })(),
  },
  'applies over a gap': {
    rule: /after a gap|takes any next id|restore takes over/,
    create: () =>
      new (class extends NaivePolicy {
        override apply(slot: number, event: KvEvent): boolean {
          const worker = this.workers.get(slot);
          if (worker && event.eventId > worker.last + 1) worker.last = event.eventId - 1;
          return super.apply(slot, event);
        }
      })(),
  },
  'cleared forgets everybody': {
    rule: /cleared forgets one/,
    create: () =>
      new (class extends NaivePolicy {
        override apply(slot: number, event: KvEvent): boolean {
          if (event.type === 'cleared') for (const worker of this.workers.values()) worker.held.clear();
          return super.apply(slot, event);
        }
      })(),
  },
  'restore keeps the event id': {
    rule: /restore takes over/,
    create: () =>
      new (class extends NaivePolicy {
        override restore(slot: number, events: readonly KvEvent[]): void {
          super.restore(slot, events, this.workers.get(slot)?.last ?? 0);
        }
      })(),
  },
  'restore keeps the old blocks': {
    rule: /restore takes over/,
    create: () =>
      new (class extends NaivePolicy {
        override restore(slot: number, events: readonly KvEvent[], lastEventId: number): void {
          const worker = this.workers.get(slot);
          if (worker === undefined) return;
          for (const event of events) this.change(worker.held, event);
          worker.last = lastEventId;
        }
      })(),
  },
  'takes any id after an empty state': {
    rule: /restore takes over/,
    create: () =>
      new (class extends NaivePolicy {
        override apply(slot: number, event: KvEvent): boolean {
          const worker = this.workers.get(slot);
          if (worker !== undefined && worker.last === 0 && worker.held.size === 0 && this.restored) worker.last = event.eventId - 1;
          return super.apply(slot, event);
        }
        restored = false;
        override restore(slot: number, events: readonly KvEvent[], lastEventId: number): void {
          this.restored = true;
          super.restore(slot, events, lastEventId);
        }
      })(),
  },
  'a slot keeps what it held': {
    rule: /slot that left/,
    create: () =>
      new (class extends NaivePolicy {
        override left(): void {}
      })(),
  },
  'leaks load at the end': {
    rule: /nothing is left|accounted for apart/,
    create: () =>
      new (class extends NaivePolicy {
        override ended(): void {}
        override dispatched(slot: number, request: RoutingRequest): void {
          if (request.id !== 'a') super.dispatched(slot, request);
        }
      })(),
  },
  'keeps the request object': {
    rule: /nothing is left/,
    create: () =>
      new (class extends NaivePolicy {
        readonly kept: { slot: number; request: RoutingRequest }[] = [];
        override dispatched(slot: number, request: RoutingRequest): void {
          if (request.id !== 'a') this.kept.push({ slot, request });
        }
        override cost(request: RoutingRequest, candidates: Candidates, i: number): number {
          return super.cost(request, candidates, i) + this.kept.filter(({ slot }) => slot === candidates.slots[i]).length;
        }
        override ended(slot: number, id: string): void {
          const at = this.kept.findIndex((entry) => entry.slot === slot && entry.request.id === id);
          if (at >= 0) this.kept.splice(at, 1);
        }
      })(),
  },
  'counts an end twice': {
    rule: /unknown requests/,
    create: () =>
      new (class extends NaivePolicy {
        extra = 0;
        override ended(slot: number, id: string): void {
          if (!this.running.has(`${slot}/${id}`)) this.extra--;
          super.ended(slot, id);
        }
        override cost(request: RoutingRequest, candidates: Candidates, i: number): number {
          return super.cost(request, candidates, i) + this.extra;
        }
      })(),
  },
  'mixes up the legs of a request': {
    rule: /accounted for apart/,
    create: () =>
      new (class extends NaivePolicy {
        override dispatched(slot: number, request: RoutingRequest): void {
          if (request.id === 'a' && request.hop === 'decode') this.running.set('1/leg', 5);
          else super.dispatched(slot, request);
        }
      })(),
  },
  'throws at the second close': {
    rule: /closes twice/,
    create: () =>
      new (class extends NaivePolicy {
        override close(): void {
          if (++this.closed > 1) throw new Error('closed already');
        }
      })(),
  },
  'has half a face': {
    rule: /whole faces|^load: /, // the load rules need the missing method
    create: () => Object.assign(new NaivePolicy(), { load: { dispatched: () => {}, firstToken: () => {}, ended: () => {} } as unknown as LoadFollower, name: 'half' }),
  },
};

for (const [name, { rule, create }] of Object.entries(mutants)) {
  test(`mutant "${name}" fails its rule and no other`, async () => {
    const failed: string[] = [];
    for (const { name: ruleName, run } of routerPolicyRules(create)) {
      try {
        await run();
      } catch {
        failed.push(ruleName);
      }
    }
    expect(failed.length).toBeGreaterThan(0);
    expect(failed.filter((ruleName) => !rule.test(ruleName))).toEqual([]);
  });
}

test('a skip is printed with its reason; a skip of no rule is refused', () => {
  const seen: string[] = [];
  const runner = { describe: (_: string, body: () => void) => body(), it: (name: string) => void seen.push(name) };
  const rules = [{ name: 'a', run: () => {} }];
  registerRules(runner, 'x', rules, [{ rule: 'a', reason: 'not here' }]);
  expect(seen).toEqual(['a (skipped: not here)']);
  expect(() => registerRules(runner, 'x', rules, [{ rule: 'b', reason: '' }])).toThrow(/no such rule/);
});
