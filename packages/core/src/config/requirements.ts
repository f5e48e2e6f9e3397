import type { PluginDescriptor } from '@armature/contracts';
import type { ResolvedSlot, ScopeNode } from './graph.ts';
import type { RawProblem } from './schema-problems.ts';

/**
 * Order of creation inside one scope: what is required first, owners after the slots of their own config, otherwise the order of the
 * file. A cycle is reported with every path on it and gives undefined.
 */
export function creationOrder(slots: readonly ResolvedSlot[], report: (problem: RawProblem) => void): ResolvedSlot[] | undefined {
  const order: ResolvedSlot[] = [];
  const done = new Set<ResolvedSlot>();
  const open: ResolvedSlot[] = [];
  let hasCycle = false;

  const visit = (node: ResolvedSlot): void => {
    if (done.has(node)) return;
    const start = open.indexOf(node);
    if (start >= 0) {
      hasCycle = true;
      report(cycle([...open.slice(start), node]));
      return;
    }
    open.push(node);
    for (const required of node.descriptor.requires ?? []) {
      for (const provider of slots) if (provider !== node && provider.slot.kind === required.kind) visit(provider);
    }
    for (const inner of node.inner) visit(inner);
    open.pop();
    done.add(node);
    order.push(node);
  };
  for (const slot of slots) visit(slot);
  return hasCycle ? undefined : order;
}

function cycle(nodes: readonly ResolvedSlot[]): RawProblem {
  const words = nodes.map((node) => `${node.slot.path} (${node.slot.kind} "${node.slot.use}")`);
  return {
    code: 'PLUGIN_CYCLE',
    path: (nodes[0] as ResolvedSlot).parts,
    message: `plug-ins require each other: ${words.join(' → ')}`,
    hint: 'use another plug-in at one of these places',
  };
}

/** Finds cycles and requirements that nothing in the same or an outer scope meets, before anything is created. */
export function checkRequirements(
  scope: ScopeNode,
  root: PluginDescriptor<'deployment'>,
  given: ReadonlySet<string>,
  report: (problem: RawProblem) => void,
): void {
  for (const required of root.requires ?? []) {
    if (required.optional !== true && !isProvided(required.kind, scope, given)) {
      report({ code: 'PLUGIN_REQUIREMENT_MISSING', path: [], message: `deployment "${root.name}" requires a ${required.kind}, and none is configured`, hint: `add a ${required.kind}` });
    }
  }
  checkScope(scope, given, report);
}

function checkScope(scope: ScopeNode, given: ReadonlySet<string>, report: (problem: RawProblem) => void): void {
  creationOrder(scope.slots, report);
  const check = (node: ResolvedSlot): void => {
    for (const required of node.descriptor.requires ?? []) {
      if (required.optional === true || isProvided(required.kind, scope, given, node)) continue;
      report({
        code: 'PLUGIN_REQUIREMENT_MISSING',
        path: node.parts,
        message: `${node.slot.kind} "${node.slot.use}" requires a ${required.kind}, and neither its own scope nor an outer one has one`,
        hint: `configure a ${required.kind} at ${scope.kind} level or above`,
      });
    }
    for (const inner of node.inner) check(inner);
  };
  for (const slot of scope.slots) check(slot);
  for (const inner of scope.scopes) checkScope(inner, given, report);
}

function isProvided(kind: string, scope: ScopeNode, given: ReadonlySet<string>, asker?: ResolvedSlot): boolean {
  if (given.has(kind)) return true;
  for (let at: ScopeNode | undefined = scope; at !== undefined; at = at.parent) {
    if (at.slots.some((slot) => slot !== asker && slot.slot.kind === kind)) return true;
  }
  return false;
}
