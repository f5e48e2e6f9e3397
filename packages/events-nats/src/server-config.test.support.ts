import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import { join } from 'node:path';
import { nkeys } from 'nats';

/** A configuration file of nats-server. */
export function serverConfig(text: string): { readonly path: string; remove(): void } {
  const folder = mkdtempSync(join(os.tmpdir(), 'armature-nats-'));
  const path = join(folder, 'server.conf');
  writeFileSync(path, text);
  return { path, remove: () => rmSync(folder, { recursive: true, force: true }) };
}

/** A fresh NKey and a configuration that lets its holder in. */
export function createUser(): { readonly seed: string; readonly serverConfig: string; remove(): void } {
  const pair = nkeys.createUser();
  const { path, remove } = serverConfig(`authorization: { users: [ { nkey: ${pair.getPublicKey()} } ] }\n`);
  return { seed: new TextDecoder().decode(pair.getSeed()), serverConfig: path, remove };
}
