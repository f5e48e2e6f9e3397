import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { PluginContext, PluginDescriptor } from '@armature/contracts';
import { builtins } from '@armature/cli';
import { routerPolicyContract } from '@armature/contracts/testing/router-policy';
import { VirtualClock, loadConfig } from '@armature/core';
import type { BootOptions } from '@armature/core';
import { deployment } from '@armature/serving';
import type { RequestRecord } from '@armature/serving';
import { afterAll, describe, expect, it } from 'vitest';
import { modelOf, request, run, start, stopAfter } from './support/in-process.ts';
import type { App } from './support/in-process.ts';
import { ArmatureProcess, armature, freePort, root } from './support/process.ts';

const MAX_README_LINES = 150;
const readme = readFileSync(join(root, 'README.md'), 'utf8');

/** The code block between `<!-- NAME -->` and `<!-- /NAME -->`. */
function marked(name: string): string {
  const found = new RegExp(`<!-- ${name} -->\\n\`\`\`\\w*\\n([\\s\\S]*?)\`\`\`\\n<!-- /${name} -->`).exec(readme);
  if (found === null) throw new Error(`README.md has no block ${name}`);
  return found[1];
}

// Below the repository, so that the plug-in finds @armature/contracts as it would from a user's folder beside it.
mkdirSync(join(root, '.cache'), { recursive: true });
const scratch = mkdtempSync(join(root, '.cache', 'readme-'));
mkdirSync(join(scratch, 'plugins'));
const pluginFile = join(scratch, 'plugins', 'cheapest.mjs');
writeFileSync(pluginFile, marked('plugin:cheapest'));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

describe('the plug-in of the README', () => {
  routerPolicyContract({
    runner: { describe, it },
    create: async () => {
      const { default: cheapest } = (await import(/* @vite-ignore */ pathToFileURL(pluginFile).href)) as { default: PluginDescriptor<'router-policy'> };
      return cheapest.create({ maxRequests: 4 }, {} as PluginContext);
    },
  });

  const config = marked('plugin:config')
    .replace('./plugins/cheapest.mjs', `./${relative(root, pluginFile)}`)
    .replace(/^frontend:.*\n/m, '')
    .replaceAll('use: reference', 'use: mock, config: { vocabSize: 1024, maxModelTokens: 4096 }');

  it('fills the cheapest worker, then the dearer one, then the cheapest again', async () => {
    const { chosen, app, end } = await served(config, [12, 1]);
    expect(chosen.slice(0, 8)).toEqual([...Array<string>(4).fill('old'), ...Array<string>(4).fill('new')]);
    expect(new Set(chosen.slice(8, 12)), 'both full: no request is refused').toContain('old');
    expect(chosen[12], 'all have ended').toBe('old');
    const page = await app.metrics.text();
    expect(page).toMatch(/armature_router_decisions_total\{model="demo"\} 13/);
    expect(page).toMatch(/armature_router_policy_errors_total\{model="demo"\} 0/);
    await end();
  });

  it('sabotage: with its full workers forgotten, or another policy, the same requests go elsewhere', async () => {
    writeFileSync(join(scratch, 'plugins', 'sabotaged.mjs'), marked('plugin:cheapest').replace('isFull ? 1e6', 'isFull ? 0').replace('+ candidates.activeRequests[i]', ''));
    const careless = await served(config.replace('cheapest.mjs', 'sabotaged.mjs'), [8]);
    expect(careless.chosen).toEqual(Array<string>(8).fill('old'));
    await careless.end();
    const other = await served(config.replace(/use: cheapest, config: \{[^}]*\}/, 'use: round-robin'), [8], 'round-robin');
    expect(other.chosen.filter((pool) => pool === 'new')).toHaveLength(4);
    expect(other.chosen.slice(0, 4)).toContain('new');
    await other.end();
  });
});

/** Runs waves of requests at once on the virtual clock; each wave ends before the next. Tells the pool that each went to. */
async function served(yaml: string, waves: readonly number[], policy = 'cheapest'): Promise<{ chosen: string[]; app: App; end: () => Promise<void> }> {
  const clock = new VirtualClock();
  const app = await start(yaml, { clock });
  const model = modelOf(app);
  let next = 0;
  for (const wave of waves) {
    const running = Array.from({ length: wave }, () => {
      const prompt = Int32Array.from({ length: 64 }, (_, i) => (next * 64 + i) % 1000);
      return run(model, request(prompt, { id: `wave-${next++}`, stop: stopAfter(8, { ignoreEos: true }) }));
    });
    await clock.runUntilIdle();
    for (const output of await Promise.all(running)) expect(output.end?.type).toBe('finished');
  }
  const chosen: string[] = [];
  for (let i = 0; i < next; i++) {
    const { body } = await app.admin.handle(`/requests/wave-${i}`, new URLSearchParams());
    const record = JSON.parse(body) as RequestRecord;
    expect(record.decisions).toHaveLength(1);
    const [decision] = record.decisions;
    expect(decision.policy).toBe(policy);
    expect(decision.policyError).toBeUndefined();
    expect(decision.candidates).toHaveLength(2);
    chosen.push(decision.chosen.slice(0, decision.chosen.indexOf('/')));
  }
  const end = async (): Promise<void> => {
    const closing = app.close(1_000);
    await clock.runUntilIdle();
    await closing;
  };
  return { chosen, app, end };
}

describe('the README tells the truth', () => {
  it(`in at most ${MAX_README_LINES} lines`, () => {
    expect(readme.trimEnd().split('\n').length).toBeLessThanOrEqual(MAX_README_LINES);
  });

  it('shows the output of `npm start` and of a chat', async () => {
    const [port, adminPort] = [await freePort(), await freePort()];
    const server = new ArmatureProcess(['serve', '-f', 'deploy/quickstart.yaml'], { ARMATURE_PORT: String(port), ARMATURE_ADMIN_PORT: String(adminPort) });
    try {
      await server.until('Ctrl-C stops');
      const printed = server.output.replaceAll(String(port), '8000').replaceAll(String(adminPort), '8001');
      expect(printed).toContain(marked('output:serve'));
      const shown = marked('output:chat').split('\n');
      const turns = shown.filter((line) => line.startsWith('you> ')).map((line) => line.slice(5));
      const chat = await armature(['chat', '--url', `http://127.0.0.1:${port}`, '--admin', `http://127.0.0.1:${adminPort}`, '--explain', '--temperature', '0', ...turns]);
      const lines = chat.stdout.split('\n');
      for (const line of shown.filter((text) => text.startsWith('demo> '))) expect(lines).toContain(line);
      // Which worker it was and how long it took differs from run to run, and so does whether a block of the answer is fetched from the decode worker's tiers or computed
      // again: that goes by measured speeds. What was asked and answered does not.
      const facts = (all: readonly string[]): string[] => all.flatMap((line) => /^ {2}(?:moved +(?=[1-9]\d* blocks)|tokens.*? output)/.exec(line) ?? []).map((fact) => fact.replace(/, (?!0 )\d+ cached/, ', some cached'));
      expect(facts(shown)).toHaveLength(4);
      expect(facts(lines)).toEqual(facts(shown));
    } finally {
      await server.stop();
    }
  }, 60_000);
});

const documents = ['README.md', 'AGENTS.md', ...below('docs'), ...readdirSync(join(root, 'packages')).map((name) => `packages/${name}/README.md`)].filter(
  (file) => file.endsWith('.md') && existsSync(join(root, file)),
);

function below(folder: string): string[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' }).map((name) => join(folder, name)).sort();
}

/** Links, and paths in backticks that begin with a folder of the repository, that lead nowhere. */
function missing(file: string, text: string): string[] {
  const prose = text.replace(/^```[\s\S]*?^```/gm, '');
  const links = [...prose.matchAll(/\]\(([^)\s]+)\)/g)].map((match) => match[1]).filter((link) => !/^[a-z]+:/.test(link));
  const broken = links.filter((link) => {
    const [path, anchor] = link.split('#');
    const target = path === '' ? join(root, file) : resolve(root, dirname(file), path);
    if (!existsSync(target)) return true;
    return anchor !== undefined && !headings(readFileSync(target, 'utf8')).includes(anchor);
  });
  const paths = [...prose.matchAll(/`((?:docs|packages|deploy|tools|e2e)\/[^\s`]+)`/g)].map((match) => match[1]).filter((path) => !/[*{<]|NAME|→/.test(path));
  return [...broken, ...paths.filter((path) => !existsSync(join(root, path)))];
}

function headings(text: string): string[] {
  return [...text.matchAll(/^#+ (.*)$/gm)].map((match) => match[1].toLowerCase().replace(/[^\p{L}\p{N} -]/gu, '').replaceAll(' ', '-'));
}

describe('documents', () => {
  it.each(documents)('%s names only what exists', (file) => {
    expect(missing(file, readFileSync(join(root, file), 'utf8'))).toEqual([]);
  });

  it('sabotage: a wrong link, anchor and path are found', () => {
    expect(missing('docs/x.md', '[a](nowhere.md) [b](../README.md#nowhere) `packages/nowhere/x.ts` [ok](../README.md#start) `docs/reference`')).toEqual([
      'nowhere.md',
      '../README.md#nowhere',
      'packages/nowhere/x.ts',
    ]);
  });

  const blocks = documents.flatMap((file) => {
    const found = [...readFileSync(join(root, file), 'utf8').matchAll(/^```ya?ml\n((?:#.*\n)*apiVersion:[\s\S]*?)^```/gm)];
    return found.map((match, i) => [`${file} ${i + 1}`, match[1]] as const);
  });

  const check = async (text: string): Promise<unknown> =>
    loadConfig({ configText: text, baseDir: scratch, root: deployment as BootOptions['root'], builtins: await builtins(), env: {} });

  it('have configurations', () => expect(blocks.length).toBeGreaterThanOrEqual(3));
  it.each(blocks)('configuration in %s passes the check', async (_where, text) => {
    await check(text);
  });
  it('sabotage: a misspelt key does not', async () => {
    await expect(check(blocks[0][1].replace('models:', 'model:'))).rejects.toThrow(/model/);
  });
});
