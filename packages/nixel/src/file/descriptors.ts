import { closeSync, constants, openSync, readFileSync } from 'node:fs';
import type { TransferSegment } from '@armature/contracts';

/** O_DIRECT wants memory, offset and length in multiples of this. */
export const DIRECT_ALIGNMENT = 4096;

const ACCESS_MODE = 3;

/**
 * A registered file, opened again for the transport alone: whoever registered it may close theirs at any time, and an operation that
 * still waits for a thread can never meet another file under the same number. Closed once unregistered and idle.
 */
export class OpenSegment {
  readonly #buffered: number;
  /** -1: the file system or the owner wants no direct I/O. */
  readonly #direct: number;
  isReadOnly: boolean;
  #inFlight = 0;
  #isReleased = false;

  /** Throws the system's error. */
  constructor(segment: TransferSegment) {
    const { location } = segment;
    if (location?.type !== 'file') throw new TypeError('no file');
    const mode = accessMode(location.fd);
    const path = process.platform === 'linux' ? `/proc/self/fd/${location.fd}` : location.path;
    this.isReadOnly = mode === constants.O_RDONLY;
    this.#buffered = openSync(path, mode);
    this.#direct = location.direct ? openDirect(path, mode) : -1;
  }

  get canBeDirect(): boolean {
    return this.#direct >= 0;
  }

  /** For one operation; give it back with `ended`. */
  begin(direct: boolean): number {
    this.#inFlight++;
    return direct ? this.#direct : this.#buffered;
  }

  ended(): void {
    this.#inFlight--;
    this.#closeIfIdle();
  }

  release(): void {
    this.#isReleased = true;
    this.#closeIfIdle();
  }

  #closeIfIdle(): void {
    if (!this.#isReleased || this.#inFlight > 0) return;
    this.#inFlight = Infinity; // once
    closeSync(this.#buffered);
    if (this.#direct >= 0) closeSync(this.#direct);
  }
}

function openDirect(path: string, mode: number): number {
  try {
    return openSync(path, mode | (constants.O_DIRECT ?? 0));
  } catch {
    return -1;
  }
}

/** How the owner opened it: what it may not do, nobody may do for it. */
function accessMode(fd: number): number {
  if (process.platform !== 'linux') return constants.O_RDWR;
  const flags = /^flags:\s*([0-7]+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1] ?? '2';
  return parseInt(flags, 8) & ACCESS_MODE;
}
