import { TransferStatus } from '@armature/contracts';
import type { EngineRequest, EngineSink, KvFace, PlaneMessage } from '@armature/contracts';
import { describe, expect, it } from 'vitest';
import { FakeCall, ManualClock } from '../test-support/fakes.ts';
import { DecodeIntake } from './decode-intake.ts';
import type { IntakeHost } from './decode-intake.ts';

interface PullCall {
  readonly remote: number[];
  readonly local: number[];
  readonly done: (status: TransferStatus) => void;
  cancelled: boolean;
}

function build(options: { matched?: number; lease?: boolean; layout?: string; conversion?: string; log?: string[]; blocksFree?: boolean } = {}) {
  const clock = new ManualClock();
  const pulls: PullCall[] = [];
  const log = options.log ?? [];
  const submitted: { request: EngineRequest; sink: EngineSink }[] = [];
  const free = { blocks: options.blocksFree ?? true };
  const kv: KvFace = {
    arena: () => ({ segments: [], blockStrideBytes: 8, pieces: 1, pieceBytes: 8, pieceStrideBytes: 8, layoutFingerprint: 'layout' }),
    match: () => 0,
    lease: () => undefined,
    evictable: () => new Int32Array(0),
    reserve: (_hashes, blocks) => (free.blocks ? { id: 3, matchedBlocks: options.matched ?? 0, blocks: Int32Array.from({ length: blocks }, (_, i) => 40 + i) } : undefined),
    commit: (_id, blocks) => void log.push(`commit ${blocks}`),
    release: () => void log.push('release'),
    quarantine: () => void log.push('quarantine'),
    renewLease: () => true,
    releaseLease: () => 'valid',
    counts: () => ({ leases: 0, reservations: 0, quarantined: 0 }),
  };
  const host: IntakeHost = {
    engine: {
      submit: (request: EngineRequest, sink: EngineSink) => {
        submitted.push({ request, sink });
        return {};
      },
      cancel: () => void log.push('engine.cancel'),
    } as unknown as IntakeHost['engine'],
    kv,
    mover: {
      blockBytes: 8,
      metadata: () => new Uint8Array(0),
      close: async () => undefined,
      pull: (_metadata, remote, local, _deadline, done) => {
        const call: PullCall = { remote: [...remote], local: [...local], done, cancelled: false };
        pulls.push(call);
        return { cancel: () => void (call.cancelled = true) };
      },
    },
    clock,
    layoutFingerprint: 'layout',
    kvConversion: 'model a',
    blockSize: 4,
    transferTimeoutMs: 1_000,
    releaseLease: (_address, lease, done) => {
      log.push(`releaseLease ${lease}`);
      done(options.lease ?? true);
    },
    renewLease: (_address, lease) => void log.push(`renew ${lease}`),
    eventIdOf: (id) => id,
    submitting: () => undefined,
    moved: (blocks) => void log.push(`moved ${blocks}`),
    failed: (outcome) => void log.push(`failed ${outcome}`),
    closed: () => void log.push('closed'),
  };
  const sent: PlaneMessage[] = [];
  const call = new FakeCall('x', { method: 'decode', message: { type: 'request' }, deadlineMs: 1 }, { message: () => undefined, closed: () => undefined });
  call.send = (message) => {
    sent.push(message);
    return true;
  };
  const request = {
    id: 'r',
    leg: 'decode',
    tokenIds: new Int32Array(10),
    promptTokens: 10,
    sequenceHashes: new Int32Array(4),
    leaseTtlMs: 300,
  } as unknown as ConstructorParameters<typeof DecodeIntake>[1];
  const source = { address: 'p', agentMetadata: new Uint8Array(0), layoutFingerprint: options.layout ?? 'layout', ...(options.conversion === undefined ? {} : { kvConversion: options.conversion }) };
  const intake = new DecodeIntake(host, request, source, call);
  const readable = (count: number): void => intake.message({ type: 'prefilled', lease: 9, blocks: Int32Array.of(1, 2, 3), tokens: count, cachedTokens: 0 });
  const start = (): void => intake.message({ type: 'start', promptTokens: 10, firstTokens: Int32Array.of(77) });
  return { clock, pulls, log, submitted, sent, intake, readable, start, free };
}

const pull = (pulls: readonly PullCall[], i: number): PullCall => {
  const call = pulls[i];
  if (call === undefined) throw new Error(`no pull ${i}`);
  return call;
};

describe('DecodeIntake', () => {
  it('pulls chunk by chunk, ends the lease, commits, decodes', () => {
    const t = build();
    t.readable(5);
    expect(pull(t.pulls, 0)).toMatchObject({ remote: [1], local: [40] });
    t.readable(10);
    expect(pull(t.pulls, 1)).toMatchObject({ remote: [2, 3], local: [41, 42] });
    t.start();
    expect(t.submitted).toHaveLength(0); // still in flight
    pull(t.pulls, 1).done(TransferStatus.Done);
    pull(t.pulls, 0).done(TransferStatus.Done);
    expect(t.log).toEqual(['moved 2', 'moved 1', 'releaseLease 9', 'commit 2']);
    expect(t.submitted[0]?.request).toMatchObject({ leg: 'decode', kvSource: { type: 'reservation', reservation: 3, readyTokens: 10 } });
    expect([...(t.submitted[0]?.request.firstTokens ?? [])]).toEqual([77]);
    expect(t.sent[0]).toMatchObject({ type: 'transferred', movedBlocks: 3, movedBytes: 24, outcome: 'valid' });
  });

  it('does not pull what it holds', () => {
    const t = build({ matched: 2 });
    t.readable(10);
    expect(pull(t.pulls, 0).remote).toEqual([3]);
  });

  it('uses nothing of what it read under an expired lease', () => {
    const t = build({ lease: false, matched: 1 });
    t.readable(10);
    pull(t.pulls, 0).done(TransferStatus.Done);
    t.start();
    expect(t.log.some((line) => line.startsWith('commit'))).toBe(false);
    expect(t.submitted[0]?.request.kvSource).toMatchObject({ readyTokens: 4 });
    expect(t.sent[0]).toMatchObject({ movedBlocks: 0, outcome: 'lease-expired' });
  });

  it('recomputes from the first block that failed', () => {
    const t = build();
    t.readable(4);
    pull(t.pulls, 0).done(TransferStatus.Done);
    t.readable(10);
    pull(t.pulls, 1).done(TransferStatus.RemoteDisconnected);
    t.start();
    expect(t.submitted[0]?.request.kvSource).toMatchObject({ readyTokens: 4 });
    expect(t.log).toContain('commit 1');
  });

  it('foreign layout: refused with a code and counted; one that can be converted is pulled', () => {
    const log: string[] = [];
    expect(() => build({ layout: 'other', log })).toThrow(expect.objectContaining({ code: 'SERVING_KV_INCOMPATIBLE' }));
    expect(() => build({ layout: 'other', conversion: 'model b', log })).toThrow(expect.objectContaining({ code: 'SERVING_KV_INCOMPATIBLE' }));
    expect(log).toEqual(['failed layout-mismatch', 'failed layout-mismatch']);
    const t = build({ layout: 'other', conversion: 'model a' });
    t.readable(10);
    expect(t.pulls).toHaveLength(1);
  });

  it('cancel during a pull: blocks go back only when the transfer is terminal', () => {
    const t = build();
    t.readable(10);
    t.intake.closed(undefined);
    expect(pull(t.pulls, 0).cancelled).toBe(true);
    expect(t.log).not.toContain('release'); // the destination rule
    pull(t.pulls, 0).done(TransferStatus.Canceled);
    expect(t.log).toContain('release');
    expect(t.log).toContain('releaseLease 9');
    expect(t.submitted).toHaveLength(0);
    expect(t.clock.pendingTimers).toBe(0);
  });

  it('a pull that never ends quarantines its blocks and is cancelled', () => {
    const t = build();
    t.readable(10);
    t.start();
    t.clock.advance(2_000);
    expect(t.log).toContain('quarantine');
    expect(pull(t.pulls, 0).cancelled).toBe(true);
    expect(t.submitted).toHaveLength(0);
    pull(t.pulls, 0).done(TransferStatus.TimedOut);
    expect(t.submitted[0]?.request.kvSource).toMatchObject({ readyTokens: 0 });
  });

  it('a prefill that takes longer than the transfer timeout, chunk by chunk, is no timeout', () => {
    const t = build();
    for (const tokens of [4, 8, 10]) {
      t.readable(tokens);
      pull(t.pulls, t.pulls.length - 1).done(TransferStatus.Done);
      t.clock.advance(900); // of 1,000
    }
    t.start();
    expect(t.log.some((line) => line.startsWith('failed'))).toBe(false);
    expect(t.submitted[0]?.request.kvSource).toMatchObject({ readyTokens: 10 });
  });

  it('waits for free blocks, and computes everything when none come', () => {
    const t = build({ blocksFree: false });
    t.readable(10);
    t.start();
    t.clock.advance(500);
    expect(t.pulls).toHaveLength(0);
    t.free.blocks = true;
    t.clock.advance(10);
    expect(t.pulls).toHaveLength(1);
    const never = build({ blocksFree: false });
    never.readable(10);
    never.start();
    never.clock.advance(2_000);
    expect(never.sent[0]).toMatchObject({ outcome: 'no-free-blocks' });
    expect(never.submitted).toHaveLength(1);
  });

  it('renews the lease while it pulls', () => {
    const t = build();
    t.readable(4);
    t.clock.advance(350);
    expect(t.log.filter((line) => line === 'renew 9').length).toBeGreaterThanOrEqual(3);
  });

  it('leaves the lease alone when another decode worker has taken over', () => {
    for (const [code, releases] of [['SERVING_DECODE_MOVED', 0], ['SERVING_CANCELLED', 1]] as const) {
      const t = build();
      t.readable(5);
      t.intake.closed({ code, message: 'closed' });
      pull(t.pulls, 0).done(TransferStatus.Canceled);
      expect(t.log.filter((line) => line === 'release')).toHaveLength(1); // its own blocks go back
      expect(t.log.filter((line) => line === 'releaseLease 9')).toHaveLength(releases);
      t.clock.advance(1_000);
      expect(t.log).not.toContain('renew 9');
    }
  });

  it('cancels the engine when the caller leaves during decode', () => {
    const t = build();
    t.readable(10);
    pull(t.pulls, 0).done(TransferStatus.Done);
    t.start();
    t.intake.closed(undefined);
    expect(t.log).toContain('engine.cancel');
  });
});
