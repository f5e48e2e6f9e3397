import { createHash } from 'node:crypto';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import type { Logger } from '@armature/contracts';
import { openingError } from './errors.ts';
import { isGone, readOwner } from './store-lock.ts';

const TEMPORARY = 'armature-kv-';
const MAX_NAME = 80;

/** A name for a folder: readable, and different for different texts. `demo/decode/0` becomes `demo_decode_0-1f2e3d4c`. */
export function folderName(text: string): string {
  const readable = text.replace(/[^A-Za-z0-9._-]+/g, '_').replace(/^[._]+/, '').slice(0, MAX_NAME);
  if (readable === text && text !== '') return readable;
  return `${readable}-${createHash('sha256').update(text).digest('hex').slice(0, 8)}`;
}

/** `path/<model>/<worker>`. */
export function storeFolder(root: string, model: string, worker: string): string {
  return join(root, folderName(model), folderName(worker));
}

/** Where the store lies; `discard` removes a folder that was made for this process. */
export async function chooseFolder(path: string | undefined, host: { readonly baseDir: string; readonly modelFingerprint: string; readonly worker: string; readonly log: Logger }): Promise<{ readonly folder: string; readonly discard: (() => Promise<void>) | undefined }> {
  if (path !== undefined) return { folder: storeFolder(resolve(host.baseDir, path), host.modelFingerprint, host.worker), discard: undefined };
  await sweepTemporary(host.log);
  const root = await mkdtemp(join(tmpdir(), TEMPORARY)).catch((error: unknown) => {
    throw openingError(error, tmpdir());
  });
  return { folder: storeFolder(root, host.modelFingerprint, host.worker), discard: () => rm(root, { recursive: true, force: true }) };
}

/** Temporary stores whose process was killed: nobody else removes them. Only those that certainly have no owner any more. */
async function sweepTemporary(log: Logger): Promise<void> {
  for (const name of await readdir(tmpdir()).catch(() => [])) {
    if (!name.startsWith(TEMPORARY)) continue;
    const root = join(tmpdir(), name);
    const owners = await ownersBelow(root);
    if (owners.length === 0 || !owners.every((owner) => owner !== undefined && isGone(owner))) continue;
    log.info('removing the temporary KV store of a process that is gone', { folder: root });
    await rm(root, { recursive: true, force: true }).catch(() => undefined);
  }
}

async function ownersBelow(root: string): Promise<ReturnType<typeof readOwner>[]> {
  const owners = [];
  for (const model of await readdir(root).catch(() => [])) {
    for (const worker of await readdir(join(root, model)).catch(() => [])) owners.push(readOwner(join(root, model, worker)));
  }
  return owners;
}
