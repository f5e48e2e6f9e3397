import type { TrtllmConfig } from './config.ts';

/** What differs between the versions of TensorRT-LLM that are known here, as far as requests go. trtllm-serve refuses unknown fields. */
export interface Dialect {
  readonly version: '1.0' | '1.1' | '1.2';
  /** `disagg_request_id` pairs the two legs (Python transceiver). */
  readonly disaggRequestId: boolean;
}

const DIALECTS: Readonly<Record<Dialect['version'], Dialect>> = {
  '1.0': { version: '1.0', disaggRequestId: false },
  '1.1': { version: '1.1', disaggRequestId: false },
  '1.2': { version: '1.2', disaggRequestId: true },
};

/** By configuration, else by what `/version` says: `1.2.0rc3` is 1.2, anything newer the newest known, anything unreadable undefined. */
export function dialectOf(configured: TrtllmConfig['version'], reported: string): Dialect | undefined {
  if (configured !== 'auto') return DIALECTS[configured];
  const match = /^v?(\d+)\.(\d+)/.exec(reported);
  if (match === null) return undefined;
  const [major, minor] = [Number(match[1]), Number(match[2])];
  if (major < 1) return undefined;
  return major > 1 || minor >= 2 ? DIALECTS['1.2'] : DIALECTS[minor === 0 ? '1.0' : '1.1'];
}
