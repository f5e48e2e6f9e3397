import type { PlaneMessage } from '@armature/contracts';
import { Method } from '../messages.ts';
import { kvConversionOf } from './arena-segments.ts';
import type { IntakeHost } from './decode-intake.ts';
import { callUnary } from './unary.ts';
import type { WorkerHostOptions, WorkerKv } from './worker-host.ts';
import type { WorkerMetrics } from './worker-metrics.ts';

const LEASE_CALL_TIMEOUT_MS = 2_000;

/** What legs that pull KV need of their worker; undefined: its engine shows no KV, or nothing moves it. */
export function buildIntakeHost(
  { engine, clock, requests, blockSize, transferTimeoutMs }: WorkerHostOptions,
  kv: WorkerKv | undefined,
  metrics: WorkerMetrics,
  more: Pick<IntakeHost, 'eventIdOf' | 'submitting' | 'closed'>,
): IntakeHost | undefined {
  const face = engine.kv;
  if (face === undefined || kv === undefined) return undefined;
  const arena = face.arena();
  const kvConversion = kvConversionOf(arena);
  const unary = (address: string, method: string, message: PlaneMessage, done: (answer: PlaneMessage | undefined) => void): void =>
    callUnary(requests, address, { method, message, deadlineMs: LEASE_CALL_TIMEOUT_MS }, done);
  return {
    engine,
    kv: face,
    mover: kv.mover,
    clock,
    blockSize,
    transferTimeoutMs,
    layoutFingerprint: arena.layoutFingerprint,
    ...(kvConversion === undefined ? {} : { kvConversion }),
    releaseLease: (address, lease, done) => unary(address, Method.ReleaseLease, { type: 'lease', lease }, (answer) => done(answer?.['valid'] === true)),
    renewLease: (address, lease, ttlMs) => unary(address, Method.RenewLease, { type: 'lease', lease, ttlMs }, () => undefined),
    moved: (blocks, bytes) => {
      metrics.movedBlocks.inc(blocks);
      metrics.movedBytes.inc(bytes);
    },
    failed: (reason) => metrics.transferFailures.with(reason).inc(),
    ...more,
  };
}
