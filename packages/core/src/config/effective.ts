import type { PlainData, PluginSlot } from '@armature/contracts';
import { Document, isMap, isPair, isScalar, visit } from 'yaml';
import type { ConfigGraph, ResolvedSlot } from './graph.ts';
import { pathText } from './path.ts';
import type { PathPart } from './path.ts';

export const MASK = '***';

/** One value of the effective configuration. */
export interface ConfigEntry {
  readonly path: string;
  readonly value: PlainData;
  /** `cluster.yaml:12`, `default`, or `cluster.yaml:12, environment NAME`. */
  readonly origin: string;
  readonly isDefault: boolean;
  readonly isSecret: boolean;
  /** Environment variables the value was made from. */
  readonly variables: readonly string[];
}

type Graph = Pick<ConfigGraph, 'file' | 'config' | 'core' | 'slots' | 'origins' | 'secretPaths'>;

function wholeConfig(graph: Graph): Record<string, unknown> {
  return { apiVersion: 'armature/v1', plugins: graph.core.plugins, log: graph.core.log, ...graph.config };
}

/** A slot as it would be written in the file. */
function asWritten(value: object, graph: Graph): object {
  const resolved: ResolvedSlot | undefined = graph.slots.get(value as PluginSlot);
  return resolved === undefined ? value : { use: resolved.slot.use, config: resolved.config };
}

export function maskedConfig(graph: Graph): PlainData {
  const walk = (value: unknown, path: readonly PathPart[], isSecret: boolean): PlainData => {
    const hidden = isSecret || graph.secretPaths.has(pathText(path));
    if (typeof value !== 'object' || value === null) return hidden && value !== undefined && value !== null && value !== '' ? MASK : (value as PlainData);
    const written = asWritten(value, graph);
    if (Array.isArray(written)) return written.map((item, index) => walk(item, [...path, index], hidden));
    const copy: Record<string, PlainData> = {};
    for (const [key, item] of Object.entries(written)) copy[key] = walk(item, [...path, key], hidden);
    return copy;
  };
  return walk(wholeConfig(graph), [], false);
}

/** Leaves (and empty collections) in order, each with its origin. */
export function describeConfig(graph: Graph, mask = true): ConfigEntry[] {
  const entries: ConfigEntry[] = [];
  const walk = (value: unknown, path: readonly PathPart[], isSecret: boolean): void => {
    const text = pathText(path);
    const hidden = isSecret || graph.secretPaths.has(text);
    if (typeof value === 'object' && value !== null) {
      const children = Object.entries(asWritten(value, graph));
      for (const [key, item] of children) walk(item, [...path, Array.isArray(value) ? Number(key) : key], hidden);
      if (children.length > 0) return;
    }
    const origin = graph.origins.get(text);
    const place = origin === undefined ? 'default' : `${graph.file}:${origin.value.line}`;
    const variables = origin?.variables ?? [];
    entries.push({
      path: text,
      value: hidden && mask && value !== '' && value !== null && value !== undefined ? MASK : (value as PlainData),
      origin: variables.length > 0 ? `${place}, environment ${variables.join(', ')}` : place,
      isDefault: origin === undefined,
      isSecret: hidden,
      variables,
    });
  };
  walk(wholeConfig(graph), [], false);
  return entries;
}

/** The effective configuration as YAML that can be used again, each line with its origin as a comment. */
export function effectiveYaml(graph: Graph): string {
  const origins = new Map(describeConfig(graph).map((entry) => [entry.path, entry]));
  const document = new Document(maskedConfig(graph));
  visit(document, {
    Scalar(key, node, ancestors) {
      if (key === 'key') return;
      const path: PathPart[] = [];
      const chain = [...ancestors, node];
      chain.forEach((item, index) => {
        const next = chain[index + 1];
        if (isPair(item) && isScalar(item.key)) path.push(String(item.key.value));
        else if (!isMap(item) && !isPair(item) && typeof item === 'object' && 'items' in item) path.push((item.items as unknown[]).indexOf(next));
      });
      const entry = origins.get(pathText(path));
      if (entry !== undefined) node.comment = ` ${entry.isDefault ? 'default' : entry.origin}`;
    },
  });
  return document.toString({ lineWidth: 0 });
}
