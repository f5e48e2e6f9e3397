import type { EngineBackend, EngineReport, PassColumns, PlainData, TrafficReport } from '@armature/contracts';
import { latencyQuantile } from '@armature/fleet-model';
import { describe, expect, it } from 'vitest';
import { ManualClock } from '../test-support/fakes.ts';
import { EngineTelemetry } from './engine-telemetry.ts';
import { TrafficTelemetry } from './traffic-telemetry.ts';

class Published {
  readonly all: { readonly subject: string; readonly payload: PlainData }[] = [];
  readonly supports = { processes: false } as const;
  publish(subject: string, payload: PlainData): void {
    this.all.push({ subject, payload });
  }
  subscribe(): { close(): void } {
    return { close: () => undefined };
  }
  take<T>(): T[] {
    return this.all.splice(0).map(({ payload }) => payload as unknown as T);
  }
}

describe('traffic telemetry', () => {
  const build = (objective?: { ttftMs: number; itlMs: number }): { clock: ManualClock; events: Published; telemetry: TrafficTelemetry } => {
    const [clock, events] = [new ManualClock(), new Published()];
    const telemetry = new TrafficTelemetry({ model: 'm', source: 'f', intervalMs: 1_000, objective, queued: () => 7, events, clock });
    telemetry.start();
    return { clock, events, telemetry };
  };
  const finished = { promptTokens: 100, cachedTokens: 40, outputTokens: 10, ttftMs: 90, itlMs: 20, isRemote: true };

  it('publishes once per interval what was counted in it, and nothing twice', () => {
    const { clock, events, telemetry } = build({ ttftMs: 100, itlMs: 25 });
    telemetry.arrived(100);
    telemetry.arrived(50);
    telemetry.firstToken(90);
    telemetry.generated(3);
    telemetry.generated(8);
    telemetry.finished(finished);
    telemetry.finished({ ...finished, ttftMs: 110, isRemote: false });
    telemetry.finished({ ...finished, itlMs: undefined, outputTokens: 1 });
    telemetry.finished({ ...finished, itlMs: 26 });
    telemetry.failed();
    clock.advance(1_000);
    const [report] = events.take<TrafficReport>();
    expect(report).toMatchObject({ model: 'm', source: 'f', sequence: 1, intervalMs: 1_000, arrived: 2, arrivedPromptTokens: 150, finished: 4, failed: 1, promptTokens: 400, cachedTokens: 160, outputTokens: 31, generatedTokens: 11, remotePrefills: 3, queued: 7, withinObjective: 2 });
    expect(latencyQuantile(report!.ttft, 0.5)).toBeCloseTo(90, -1);
    expect(report!.itl.reduce((sum, count) => sum + count, 0)).toBe(3);
    clock.advance(1_000);
    expect(events.take<TrafficReport>()[0]).toMatchObject({ sequence: 2, arrived: 0, finished: 0, generatedTokens: 0, withinObjective: 0 });
    expect(report!.ttft.some((count) => count > 0)).toBe(true); // a report that was published stays as it was
  });

  it('without an objective every finished request is within it; close publishes the rest and stops', () => {
    const { clock, events, telemetry } = build();
    telemetry.finished({ ...finished, ttftMs: 1e6 });
    clock.advance(400);
    telemetry.close();
    telemetry.close();
    expect(events.take<TrafficReport>()).toMatchObject([{ intervalMs: 400, finished: 1, withinObjective: 1 }]);
    clock.advance(10_000);
    expect(events.all).toEqual([]);
  });
});

describe('engine telemetry', () => {
  it('publishes the load, and the passes where the engine tells them, under the life of now', () => {
    const [clock, events] = [new ManualClock(), new Published()];
    const passes: PassColumns = { prefillTokens: Float64Array.of(1), decodeSequences: Float64Array.of(2), contextTokens: Float64Array.of(3), ms: Float64Array.of(4) };
    let instanceId = 'a/0@1';
    const engine = { load: () => ({ running: 1, waiting: 2, prefillTokens: 3, usedBlocks: 4, freeBlocks: 5, totalBlocks: 9, preemptions: 0 }), takePasses: () => passes } as unknown as EngineBackend;
    const telemetry = new EngineTelemetry({ model: 'm', intervalMs: 500, instanceId: () => instanceId, engine, events, clock });
    telemetry.start();
    clock.advance(500);
    instanceId = 'a/0@2';
    clock.advance(500);
    telemetry.close();
    clock.advance(5_000);
    expect(events.all.map(({ subject }) => subject)).toEqual(['engine/m', 'engine/m']);
    expect(events.take<EngineReport>()).toEqual([
      { model: 'm', instanceId: 'a/0@1', sequence: 1, intervalMs: 500, running: 1, waiting: 2, prefillTokens: 3, usedBlocks: 4, totalBlocks: 9, passes },
      { model: 'm', instanceId: 'a/0@2', sequence: 2, intervalMs: 500, running: 1, waiting: 2, prefillTokens: 3, usedBlocks: 4, totalBlocks: 9, passes },
    ]);
  });
});
