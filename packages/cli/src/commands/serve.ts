import type { DeploymentSummary } from '@armature/contracts';
import { bootFile } from '../boot.ts';

const DRAIN_MS = 10_000;

/** Starts everything in the file (or in `routeText`, read in its place: placement alone) and stays until SIGINT or SIGTERM. */
export async function serve(file: string, routeText?: string): Promise<void> {
  const app = await bootFile(file, routeText === undefined ? {} : { text: routeText });
  let stopping: Promise<void> | undefined;
  let stopped: () => void = () => undefined;
  const untilStopped = new Promise<void>((resolve) => {
    stopped = resolve;
  });
  const stop = (signal: NodeJS.Signals): void => {
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
  try {
    await app.start();
    if (stopping === undefined) process.stdout.write(banner(app.deployment.summary(), routeText !== undefined));
  } catch (error) {
    if (stopping === undefined) throw error;
  }
  await untilStopped;
  process.stderr.write('stopped.\n');
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
