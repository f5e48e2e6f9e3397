import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { PluginContext } from '@armature/contracts';

/** The demo model's folder. */
export const demoFolder: string = fileURLToPath(new URL('../../model-demo/model', import.meta.url));

export interface FakeContext {
  readonly context: PluginContext;
  readonly counters: Map<string, number>;
  readonly warnings: string[];
}

/** What a preprocessor uses of its context. */
export function fakeContext(folder: string, baseDir = folder): FakeContext {
  const counters = new Map<string, number>();
  const warnings: string[] = [];
  const context = {
    path: 'models[0].preprocessor',
    baseDir,
    scopes: [{ kind: 'model', name: 'test', facts: { name: 'test', source: folder, folder, blockSize: 16 } }],
    clock: { wallMs: () => Date.UTC(2026, 10, 23, 9, 5, 7) },
    log: { warn: (message: string) => void warnings.push(message) },
    metrics: {
      counter: ({ name }: { name: string }) => ({ with: () => ({ inc: (by = 1) => void counters.set(name, (counters.get(name) ?? 0) + by) }) }),
    },
  };
  return { context: context as unknown as PluginContext, counters, warnings };
}

/** A model folder in a temporary place; an object is written as JSON, undefined leaves the file out. */
export function modelFolder(files: Record<string, unknown>): string {
  const folder = mkdtempSync(join(tmpdir(), 'armature-model-'));
  for (const [name, content] of Object.entries(files)) {
    if (content !== undefined) writeFileSync(join(folder, name), typeof content === 'string' ? content : JSON.stringify(content));
  }
  return folder;
}
