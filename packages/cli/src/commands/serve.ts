import { readFileSync } from 'node:fs';
import type { DeploymentSummary } from '@armature/contracts';
import { bootFile } from '../boot.ts';
import { parsePart, partsOf, selectPart, withAdminPort } from '../only.ts';

export interface ServeOptions {
  readonly file: string;
  /** One part of the deployment: `frontend`, `planner`, `workers.NAME` or `workers.NAME/INDEX`. */
  readonly only?: string;
  readonly adminPort?: number;
  /** Set by `armature up` for several frontends. */
  readonly sharePort?: boolean;
}

const DRAIN_MS = 10_000;

/** `armature serve`: everything in the file, or one part of it. */
export async function serve(options: ServeOptions): Promise<void> {
  const { file, only, adminPort, sharePort } = options;
  if (only === undefined) return run(file, adminPort === undefined ? {} : { text: withAdminPort(readFileSync(file, 'utf8'), adminPort) });
  const part = parsePart(only);
  const parts = await partsOf(file);
  const edits = { ...(adminPort === undefined ? {} : { adminPort }), ...(sharePort === undefined ? {} : { sharePort }) };
  await run(file, { text: selectPart(readFileSync(file, 'utf8'), part, parts, edits) });
}

/** Starts what the file says (or `text`, read in its place) and stays until SIGINT, SIGTERM, or the end of the parent that started it. */
export async function run(file: string, options: { readonly text?: string; readonly isRouteOnly?: boolean } = {}): Promise<void> {
  const { text, isRouteOnly = false } = options;
  const app = await bootFile(file, text === undefined ? {} : { text });
  let stopping: Promise<void> | undefined;
  let stopped: () => void = () => undefined;
  const untilStopped = new Promise<void>((resolve) => {
    stopped = resolve;
  });
  const stop = (signal: string): void => {
    if (stopping !== undefined) {
      process.stderr.write(`\n${signal} again: leaving at once.\n`);
      process.exit(130);
    }
    process.stderr.write(`\n${signal}: finishing what runs (at most ${DRAIN_MS / 1000} s) …\n`);
    stopping = app.close(DRAIN_MS).then(stopped, (error: unknown) => {
      process.stderr.write(`closing failed: ${String(error)}\n`);
      process.exitCode = 1;
      stopped();
    });
  };
  process.on('SIGINT', stop);
  process.on('SIGTERM', stop);
  // Started by `armature up`: nobody is left to answer to when that has gone.
  const onDisconnect = (): void => stop('parent gone');
  process.once('disconnect', onDisconnect);
  try {
    await app.start();
    const summary = app.deployment.summary();
    if (stopping === undefined) process.stdout.write(banner(summary, isRouteOnly));
    process.send?.({ type: 'ready', summary });
  } catch (error) {
    if (stopping === undefined) throw error;
  }
  await untilStopped;
  process.stderr.write('stopped.\n');
  process.off('disconnect', onDisconnect);
  if (process.connected) process.disconnect();
}

export function banner(summary: DeploymentSummary, isRouteOnly = false): string {
  const lines = [''];
  if (summary.url !== undefined) lines.push(`  Armature ${isRouteOnly ? 'routes at' : 'serves'} ${summary.url}/v1`);
  if (summary.adminUrl !== undefined) lines.push(`  admin           ${summary.adminUrl}  (/metrics, /requests, /workers)`);
  for (const model of summary.models) {
    lines.push(`  model           ${model.name}  (${model.source})`);
    for (const worker of model.workers) lines.push(`    ${worker.name.padEnd(14)}${worker.role.padEnd(9)}${worker.engine}`);
  }
  const model = summary.models[0]?.name;
  if (summary.url !== undefined && model !== undefined) {
    if (isRouteOnly) {
      const body = '{"prompt": "My cat is called Biscuit."}';
      lines.push('', '  Try it:', '', `  curl -s ${summary.url}/v1/selections -d '${body}'`, '', '  Ctrl-C stops.', '');
      return `${lines.join('\n')}\n`;
    }
    const admin = summary.adminUrl === undefined ? '' : ` --admin ${summary.adminUrl} --explain`;
    lines.push('', '  Try it:', '', curlExample(summary.url, model), '', `  or: npx armature chat --url ${summary.url}${admin}`);
  }
  lines.push('', '  Ctrl-C stops.', '');
  return `${lines.join('\n')}\n`;
}

function curlExample(url: string, model: string): string {
  const body = { model, messages: [{ role: 'user', content: 'My cat is called Biscuit. What is my cat called?' }] };
  return `  curl -s ${url}/v1/chat/completions -H 'content-type: application/json' \\\n    -d '${JSON.stringify(body)}'`;
}
