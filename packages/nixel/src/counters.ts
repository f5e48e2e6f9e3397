import type { TransferStatus } from '@armature/contracts';

/** What one agent has done as initiator. Plain numbers, read by tests and by metrics collectors; only grow. */
export class TransferCounters {
  posted = 0;
  done = 0;
  failed = 0;
  readBytes = 0;
  writtenBytes = 0;
  /** Rows of finished transfers, as prepared. */
  descriptors = 0;
  notificationsSent = 0;
  notificationsReceived = 0;
  /** Received while nobody listened and the inbox was full: the oldest went. */
  notificationsDropped = 0;
  /** Losses told by transports: one per path. */
  peersLost = 0;
  /** Posts refused because too many transfers ran with the peer. */
  overloaded = 0;
  /** Attempts on another path after one had failed. */
  fallbacks = 0;
  /** Posts on a path that was not the cheapest, to learn what it costs now. */
  trials = 0;
  /** Stale handles checked again before a post. */
  rechecks = 0;
  /** Failed transfers by status. */
  readonly byStatus = new Map<TransferStatus, number>();
  /** Finished transfers and bytes by transport: shows which path ran. */
  readonly byTransport = new Map<string, { transfers: number; bytes: number }>();

  finished(transport: string, op: 'read' | 'write', bytes: number, rows: number): void {
    this.done++;
    this.descriptors += rows;
    if (op === 'read') this.readBytes += bytes;
    else this.writtenBytes += bytes;
    let row = this.byTransport.get(transport);
    if (row === undefined) this.byTransport.set(transport, (row = { transfers: 0, bytes: 0 }));
    row.transfers++;
    row.bytes += bytes;
  }

  failedWith(status: TransferStatus): void {
    this.failed++;
    this.byStatus.set(status, (this.byStatus.get(status) ?? 0) + 1);
  }
}
