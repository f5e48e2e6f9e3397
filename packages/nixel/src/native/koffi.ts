import { createRequire } from 'node:module';
import type * as koffi from 'koffi';
import { ArmatureError } from '@armature/contracts';

export type Koffi = typeof koffi;

let loaded: Koffi | undefined;
let reason: string | undefined;

/** The FFI library, loaded at first use so that the package works without it; undefined when it cannot be loaded (`koffiMissing` says why). */
export function loadKoffi(): Koffi | undefined {
  if (loaded !== undefined || reason !== undefined) return loaded;
  try {
    loaded = createRequire(import.meta.url)('koffi') as Koffi;
  } catch (error) {
    reason = `install koffi (${error instanceof Error ? error.message.split('\n')[0]! : String(error)})`;
  }
  return loaded;
}

/** What to do to have the FFI library, or undefined when it is there. */
export function koffiMissing(): string | undefined {
  return loadKoffi() === undefined ? reason : undefined;
}

/** Throws `TRANSFER_NATIVE_UNAVAILABLE`. */
export function nativeUnavailable(found: string): ArmatureError {
  return new ArmatureError('TRANSFER_NATIVE_UNAVAILABLE', `native memory is not available here: ${found}`, { hint: 'run on Linux with the koffi package installed, or use the tcp transport' });
}
