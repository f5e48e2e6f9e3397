import { chmod, lstat, mkdir, mkdtemp, rm } from 'node:fs/promises';
import { createConnection, createServer } from 'node:net';
import type { Server } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { ArmatureError } from '@armature/contracts';

/** A listening socket in the file system, for this user alone. */
export interface SocketFile {
  readonly server: Server;
  readonly path: string;
  /** Stops listening and removes what was made. Connections are the caller's. */
  close(): Promise<void>;
}

/**
 * Without a path: in a new folder that only this user can enter. With one: there, for an engine that somebody else starts; what a process that is gone left there is removed.
 * Throws `VLLM_CONNECTOR_SOCKET_FAILED`.
 */
export async function listenOnFile(asked: string | undefined): Promise<SocketFile> {
  const folder = asked === undefined ? await mkdtemp(join(tmpdir(), 'armature-kv-')) : undefined; // mode 0700
  const path = asked ?? join(folder!, 'vllm.sock');
  const server = createServer();
  try {
    if (asked !== undefined) await makeRoom(path);
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(path, resolve);
    });
    await chmod(path, 0o600);
  } catch (cause) {
    if (server.listening) server.close();
    if (folder !== undefined) await rm(folder, { recursive: true, force: true });
    throw failed(path, cause instanceof Error ? cause.message : String(cause), cause);
  }
  const close = async (): Promise<void> => {
    await new Promise<void>((resolve) => server.close(() => resolve()));
    await rm(folder ?? path, { recursive: true, force: true });
  };
  return { server, path, close };
}

async function makeRoom(path: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  const found = await lstat(path).catch(() => undefined);
  if (found === undefined) return;
  if (!found.isSocket()) throw new Error('there is a file that is no socket');
  if (await answers(path)) throw new Error('another process listens there');
  await rm(path);
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}

function failed(path: string, reason: string, cause: unknown): ArmatureError {
  return new ArmatureError('VLLM_CONNECTOR_SOCKET_FAILED', `no socket for vLLM's connector at ${path}: ${reason}`, { hint: 'give each worker a path of its own, at most 107 characters long, in a folder that this user can write to', cause });
}
