import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ArmatureError, definePlugin } from '@armature/contracts';
import type { PluginDescriptor } from '@armature/contracts';
import { ProcessConnector } from './process-connector.ts';

interface ProcessConfig {
  readonly path: string;
  readonly stopMs: number;
  readonly onClose: 'stop' | 'leave';
}

/** `file`: the configuration that the workers read; undefined where none was named. */
export function processConnector(file: string | undefined): PluginDescriptor<'scaling-connector', ProcessConfig> {
  return definePlugin<'scaling-connector', ProcessConfig>({
    kind: 'scaling-connector',
    contract: 'v1',
    name: 'process',
    description: 'Starts and stops workers as processes of this host, each with `armature serve --only workers.POOL/INDEX`.',
    configSchema: {
      type: 'object',
      additionalProperties: false,
      properties: {
        path: { type: 'string', minLength: 1, default: '.armature/planner', description: 'Folder for what has been started and for the logs of workers, relative to the configuration.' },
        stopMs: { type: 'integer', minimum: 0, default: 15_000, description: 'How long a worker may take to end what it runs, in milliseconds; then it is killed.' },
        onClose: { enum: ['stop', 'leave'], default: 'stop', description: 'When the planner is asked to end: end its workers, or leave them to its next life. One that is killed always leaves them.' },
      },
    },
    facts: () => ({ runsWorkers: true }),
    create: ({ path, stopMs, onClose }, { clock, log, baseDir }) => {
      if (file === undefined) throw new ArmatureError('CONFIG_FILE_UNREADABLE', 'the process connector starts workers from a configuration file, and none was named', { hint: 'name a configuration file with -f' });
      const bin = fileURLToPath(new URL('../../bin/armature.js', import.meta.url));
      const command = (pool: string, index: number): readonly string[] => [bin, 'serve', '-f', resolve(file), '--only', `workers.${pool}/${index}`, '--admin-port', '0'];
      return new ProcessConnector({ path: resolve(baseDir, path), stopMs, onClose, command, cwd: process.cwd(), clock, log });
    },
  });
}
