import { readFileSync } from 'node:fs';
import { ArmatureError } from '@armature/contracts';
import { parseDocument } from 'yaml';
import { run } from './serve.ts';

export interface RouteOptions {
  readonly file: string;
  readonly host?: string;
  readonly port?: number;
}

/** `armature route`: the deployment of a file with placement alone at its edge, whatever frontend the file names. */
export async function route(options: RouteOptions): Promise<void> {
  let text: string;
  try {
    text = readFileSync(options.file, 'utf8');
  } catch (error) {
    throw new ArmatureError('CONFIG_FILE_UNREADABLE', `cannot read ${options.file}: ${(error as Error).message}`, { hint: 'name a configuration file with -f' });
  }
  const document = parseDocument(text);
  const config = { ...(options.host === undefined ? {} : { host: options.host }), ...(options.port === undefined ? {} : { port: options.port }) };
  // A file that is no YAML mapping goes to the checker as it is, which says what is wrong and where.
  if (document.errors.length === 0 && document.contents !== null) document.setIn(['frontend'], { use: 'selection', config });
  await run(options.file, { text: document.errors.length === 0 ? document.toString() : text, isRouteOnly: true });
}
