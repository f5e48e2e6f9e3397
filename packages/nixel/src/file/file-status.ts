import { TransferStatus } from '@armature/contracts';

/** The status that a system error becomes; its code goes to the log and to `FileCounters.errors`. */
export function statusOf(code: string): TransferStatus {
  switch (code) {
    case 'ENOENT':
    case 'ESTALE':
      return TransferStatus.NotFound;
    case 'EACCES':
    case 'EPERM':
    case 'EROFS':
      return TransferStatus.NotAllowed;
    default:
      return TransferStatus.TransportError;
  }
}

/** For tests, benchmarks and logs; only grow. */
export class FileCounters {
  operations = 0;
  directOperations = 0;
  /** On a file opened for direct I/O, but memory, offset or length was not aligned. */
  bufferedFallbacks = 0;
  /** Rows joined into an operation with others. */
  joinedRows = 0;
  /** Calls that moved fewer bytes than asked and were continued. */
  shortCalls = 0;
  syncs = 0;
  maxInFlight = 0;
  /** By system error code. */
  readonly errors = new Map<string, number>();
}
