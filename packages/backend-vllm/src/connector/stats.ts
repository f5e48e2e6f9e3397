/** What happened on a connector since it was opened. */
export interface ConnectorCounts {
  links: number;
  refusedLinks: number;
  matches: number;
  matchedBlocks: number;
  pulls: number;
  /** Blocks pinned for vLLM, by where they came from. */
  readonly pulled: Record<'host' | 'disk' | 'object' | 'peer', number>;
  /** Leases that were no more when vLLM gave them back: what it had copied is recomputed. */
  expiredLeases: number;
  reservedBlocks: number;
  keptBlocks: number;
  /** Slots freed, and pins dropped, because a socket closed. */
  abandonedReservations: number;
  abandonedLeases: number;
  /** Blocks that vLLM reported as failed. */
  failedBlocks: number;
}

export function noCounts(): ConnectorCounts {
  return {
    links: 0,
    refusedLinks: 0,
    matches: 0,
    matchedBlocks: 0,
    pulls: 0,
    pulled: { host: 0, disk: 0, object: 0, peer: 0 },
    expiredLeases: 0,
    reservedBlocks: 0,
    keptBlocks: 0,
    abandonedReservations: 0,
    abandonedLeases: 0,
    failedBlocks: 0,
  };
}
