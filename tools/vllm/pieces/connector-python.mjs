// The Python side of our connector without a server: its unit tests in vLLM's own environment, and the wheel that users install.
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const SOURCE = fileURLToPath(new URL('../../../packages/backend-vllm/python', import.meta.url));
const LIMIT_MS = 180_000;

function execute(command, args, options = {}) {
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: 'utf8', timeout: LIMIT_MS, ...options, env: { ...process.env, VLLM_LOGGING_LEVEL: 'ERROR', ...options.env } });
  return { isGood: status === 0, text: `${stdout}${stderr}` };
}

const tail = ({ text }) => text.split('\n').slice(-25).join('\n');

export function run({ bench, checks }) {
  const tests = execute(bench.install.python, ['-W', 'ignore', '-m', 'unittest', 'discover', '-t', '.', '-s', 'tests'], { cwd: SOURCE, env: { PYTHONPATH: join(SOURCE, 'src') } });
  const ran = /Ran (\d+) tests/.exec(tests.text)?.[1] ?? '0';
  checks.check('unit tests pass', tests.isGood && Number(ran) > 30 && !tests.text.includes('skipped'), tests.isGood ? `${ran} tests` : tail(tests));
  const folder = join(bench.folder, 'wheel');
  mkdirSync(folder, { recursive: true });
  cpSync(SOURCE, join(folder, 'source'), { recursive: true }); // a build writes into its source
  const python = join(folder, 'venv', 'bin', 'python');
  const built = [
    execute('python3', ['-m', 'venv', join(folder, 'venv')]),
    execute(python, ['-m', 'pip', '--disable-pip-version-check', 'wheel', '--quiet', '--no-deps', '-w', folder, join(folder, 'source')]),
  ].find(({ isGood }) => !isGood);
  const wheel = readdirSync(folder).find((name) => name.endsWith('.whl'));
  checks.check('a wheel can be built', built === undefined && wheel === 'armature_vllm-0.1.0-py3-none-any.whl', built === undefined ? wheel : tail(built));
  if (wheel === undefined) return;
  const loaded = execute(bench.install.python, ['-W', 'ignore', '-c', 'from armature_vllm.connector import ArmatureConnector; import armature_vllm; print(armature_vllm.__file__)'], { env: { PYTHONPATH: join(folder, wheel) } });
  checks.check('vLLM can load the connector from it', loaded.isGood && loaded.text.includes('.whl'), loaded.isGood ? undefined : tail(loaded));
}
