import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { ArmatureError } from '@armature/contracts';

let bundled: Promise<URL> | undefined;

/**
 * Where a worker thread starts. Built: the file beside this one. From TypeScript sources (tests), which Node 20 cannot run, the thread's
 * sources are bundled in memory once per process with the bundler that the test runner brings along; without it the build is used.
 */
export function threadEntry(): Promise<URL> {
  if (!import.meta.url.endsWith('.ts')) return Promise.resolve(new URL('./thread.js', import.meta.url));
  bundled ??= bundleSources();
  return bundled;
}

interface Bundler {
  rolldown(options: object): Promise<{ generate(options: object): Promise<{ output: readonly { code: string }[] }>; close(): Promise<void> }>;
}

async function bundleSources(): Promise<URL> {
  const bundlerName = 'rolldown'; // a variable: packages that build from here must not resolve it
  let bundler: Bundler;
  try {
    bundler = (await import(bundlerName)) as Bundler;
  } catch {
    return builtEntry();
  }
  const bundle = await bundler.rolldown({
    input: fileURLToPath(new URL('./thread.ts', import.meta.url)),
    platform: 'node',
    resolve: { conditionNames: ['@armature/source', 'node', 'import', 'default'] },
    logLevel: 'silent',
  });
  const { output } = await bundle.generate({ format: 'esm', codeSplitting: false });
  await bundle.close();
  return new URL(`data:text/javascript;base64,${Buffer.from(output[0]!.code).toString('base64')}`);
}

function builtEntry(): URL {
  const built = new URL('../dist/thread.js', import.meta.url);
  if (existsSync(built)) return built;
  throw new ArmatureError('ENGINE_THREAD_UNAVAILABLE', 'the model thread cannot run from TypeScript sources and packages/backend-reference/dist is not built', {
    hint: 'run `npx tsc -b packages/backend-reference`',
  });
}
