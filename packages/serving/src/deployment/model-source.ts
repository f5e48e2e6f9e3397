import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, isAbsolute, join, resolve } from 'node:path';
import { ArmatureError } from '@armature/contracts';

/** Folder of a model: a path (relative to the config file) or an npm package that names its folder under `armature.model`. */
export function resolveModelFolder(source: string, baseDir: string): string {
  if (source.startsWith('.') || isAbsolute(source)) return existing(resolve(baseDir, source), source);
  for (const from of [join(baseDir, 'package.json'), import.meta.url]) {
    let manifest: string;
    try {
      manifest = createRequire(from).resolve(`${source}/package.json`);
    } catch {
      continue;
    }
    const folder = (JSON.parse(readFileSync(manifest, 'utf8')) as { armature?: { model?: string } }).armature?.model;
    if (folder === undefined) {
      throw new ArmatureError('MODEL_PACKAGE_INVALID', `package "${source}" does not say where its model is`, {
        hint: 'its package.json needs { "armature": { "model": "./FOLDER" } }',
      });
    }
    return existing(join(dirname(manifest), folder), source);
  }
  throw new ArmatureError('MODEL_NOT_FOUND', `model source "${source}" is neither an installed package nor a folder`, {
    hint: `npm install ${source}, or write a path that begins with ./ or /`,
  });
}

function existing(folder: string, source: string): string {
  if (existsSync(join(folder, 'config.json'))) return folder;
  const found = existsSync(folder) ? 'has no config.json' : 'does not exist';
  throw new ArmatureError('MODEL_NOT_FOUND', `model folder ${folder} (source "${source}") ${found}`, {
    hint: 'point models[].source at a Hugging Face model folder',
  });
}
