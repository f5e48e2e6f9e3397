import type { Random } from './context.ts';

/** W3C trace context (https://www.w3.org/TR/trace-context/), version 00. */
export interface TraceContext {
  /** 32 lower-case hex digits, not all zero. */
  readonly traceId: string;
  /** 16 lower-case hex digits, not all zero: the span this was received from. */
  readonly parentId: string;
  readonly sampled: boolean;
}

const SHAPE = /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/;

/** Reads a `traceparent` header; undefined when it is absent or not valid (then a new trace begins, as the standard says). */
export function parseTraceparent(header: string | undefined): TraceContext | undefined {
  const match = header === undefined ? null : SHAPE.exec(header.trim());
  if (match === null) return undefined;
  const [, version, traceId, parentId, flags, rest] = match as unknown as [string, string, string, string, string, string | undefined];
  if (version === 'ff' || (version === '00' && rest !== undefined)) return undefined;
  if (/^0+$/.test(traceId) || /^0+$/.test(parentId)) return undefined;
  return { traceId, parentId, sampled: (parseInt(flags, 16) & 1) === 1 };
}

/** A `traceparent` that begins a new trace. */
export function newTraceparent(random: Pick<Random, 'u32'>, sampled = true): string {
  return `00-${hexWords(random, 4)}-${hexWords(random, 2)}-${sampled ? '01' : '00'}`;
}

/** A `traceparent` for the next hop: same trace, new span. Begins a new trace when the incoming one is absent or not valid. */
export function childTraceparent(parent: string | undefined, random: Pick<Random, 'u32'>): string {
  const context = parseTraceparent(parent);
  if (context === undefined) return newTraceparent(random);
  return `00-${context.traceId}-${hexWords(random, 2)}-${context.sampled ? '01' : '00'}`;
}

function hexWords(random: Pick<Random, 'u32'>, count: number): string {
  for (;;) {
    let text = '';
    for (let i = 0; i < count; i++) text += random.u32().toString(16).padStart(8, '0');
    if (!/^0+$/.test(text)) return text;
  }
}
