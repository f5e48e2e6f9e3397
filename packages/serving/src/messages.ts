import { ArmatureError } from '@armature/contracts';
import type {
  EngineBackend,
  EngineRequest,
  KvSource,
  PlainData,
  PlaneMessage,
  PrefillHandover,
  ResponseFormat,
  SamplingParams,
  StopParams,
  TokenBatch,
  WorkerRecord,
} from '@armature/contracts';
import type { KvFetchRecord, KvLoan, KvPeer } from '@armature/kvbm';

/** Wire version of worker records and methods. */
export const PROTOCOL = 1;

/** Methods of a worker's endpoint. */
export const Method = {
  /** A full, prefill or engine-native decode leg. */
  Generate: 'generate',
  /** A decode leg whose KV this worker pulls from a prefill worker. */
  Decode: 'decode',
  RenewLease: 'lease.renew',
  ReleaseLease: 'lease.release',
  /** Another role: `draining`, then `done`. */
  Role: 'worker.role',
  /** Can it serve? And its load. */
  Probe: 'probe',
  /** The worker's KV events so far, for resync. */
  Snapshot: 'kv.snapshot',
  /** KV events `from` to `to` out of the worker's buffer. */
  Replay: 'kv.replay',
  /** Host blocks lent to another worker's block manager; and the loan's renewal and end. */
  Borrow: 'kv.borrow',
  RenewLoan: 'kv.renew',
  SettleLoan: 'kv.settle',
  /** A request that waits in a frontend may come: a hint to bring its blocks up. */
  Prefetch: 'kv.prefetch',
} as const;

/** Where a decode worker finds the prompt's KV. */
export interface PullSource {
  readonly address: string;
  readonly agentMetadata: Uint8Array;
  readonly layoutFingerprint: string;
  readonly kvConversion?: string;
}

export type EngineRequestFields = Omit<EngineRequest, 'kvSource'>;

const NO_PEERS: readonly KvPeer[] = [];

function fail(field: string, found: unknown): never {
  throw new ArmatureError('SERVING_MESSAGE_INVALID', `field "${field}" of a worker message is ${describe(found)}`, {
    hint: 'frontend and worker must run the same version; see docs/reference/request-plane.md',
  });
}

function describe(value: unknown): string {
  if (value === undefined) return 'missing';
  return Object.prototype.toString.call(value).slice(8, -1);
}

function record(value: PlainData, field: string): Readonly<Record<string, PlainData>> {
  if (typeof value !== 'object' || value === null || Array.isArray(value) || ArrayBuffer.isView(value)) fail(field, value);
  return value as Readonly<Record<string, PlainData>>;
}
function number(value: PlainData, field: string): number {
  if (typeof value !== 'number' || Number.isNaN(value)) fail(field, value);
  return value;
}
function string(value: PlainData, field: string): string {
  if (typeof value !== 'string') fail(field, value);
  return value;
}
function ints(value: PlainData, field: string): Int32Array {
  if (!(value instanceof Int32Array)) fail(field, value);
  return value;
}

function samplingFrom(value: PlainData): SamplingParams {
  const data = record(value, 'sampling');
  for (const key of ['temperature', 'topP', 'topK', 'minP', 'seedLo', 'seedHi', 'frequencyPenalty', 'presencePenalty', 'repetitionPenalty', 'topLogprobs']) {
    number(data[key], `sampling.${key}`);
  }
  ints(data['biasTokenIds'], 'sampling.biasTokenIds');
  if (!(data['biasValues'] instanceof Float32Array)) fail('sampling.biasValues', data['biasValues']);
  return data as unknown as SamplingParams;
}

function stopFrom(value: PlainData): StopParams {
  const data = record(value, 'stop');
  number(data['maxTokens'], 'stop.maxTokens');
  number(data['minTokens'], 'stop.minTokens');
  ints(data['stopTokenIds'], 'stop.stopTokenIds');
  if (typeof data['ignoreEos'] !== 'boolean') fail('stop.ignoreEos', data['ignoreEos']);
  return data as unknown as StopParams;
}

/** A leg as a message. Columns are shared, not copied: the plane encodes or delivers, and engines do not write to them. */
export function requestMessage(request: EngineRequestFields, extra: Readonly<Record<string, PlainData>>): PlaneMessage {
  return {
    type: 'request',
    id: request.id,
    leg: request.leg,
    tokenIds: request.tokenIds,
    promptTokens: request.promptTokens,
    sequenceHashes: request.sequenceHashes,
    cacheSalt: request.cacheSalt,
    ...(request.adapter === undefined ? {} : { adapter: request.adapter }),
    ...(request.responseFormat === undefined ? {} : { responseFormat: request.responseFormat }),
    sampling: request.sampling as unknown as PlainData,
    stop: request.stop as unknown as PlainData,
    choices: request.choices,
    firstChoice: request.firstChoice ?? 0,
    firstTokens: request.firstTokens,
    priority: request.priority,
    leaseTtlMs: request.leaseTtlMs,
    ...extra,
  };
}

/** Throws `SERVING_MESSAGE_INVALID`. */
export function parseRequest(message: PlaneMessage): EngineRequestFields {
  const leg = string(message['leg'], 'leg');
  if (leg !== 'full' && leg !== 'prefill' && leg !== 'decode') fail('leg', leg);
  const tokenIds = ints(message['tokenIds'], 'tokenIds');
  const promptTokens = number(message['promptTokens'], 'promptTokens');
  if (promptTokens < 1 || promptTokens > tokenIds.length) fail('promptTokens', promptTokens);
  const firstTokens = message['firstTokens'];
  const adapter = message['adapter'];
  const format = formatFrom(message['responseFormat']);
  return {
    id: string(message['id'], 'id'),
    leg,
    tokenIds,
    promptTokens,
    sequenceHashes: ints(message['sequenceHashes'], 'sequenceHashes'),
    cacheSalt: string(message['cacheSalt'], 'cacheSalt'),
    ...(adapter === undefined || adapter === null ? {} : { adapter: string(adapter, 'adapter') }),
    ...(format === undefined ? {} : { responseFormat: format }),
    sampling: samplingFrom(message['sampling']),
    stop: stopFrom(message['stop']),
    choices: number(message['choices'], 'choices'),
    firstChoice: number(message['firstChoice'] ?? 0, 'firstChoice'),
    firstTokens: firstTokens === undefined || firstTokens === null ? undefined : ints(firstTokens, 'firstTokens'),
    priority: number(message['priority'], 'priority'),
    leaseTtlMs: number(message['leaseTtlMs'], 'leaseTtlMs'),
  };
}

function formatFrom(value: PlainData): ResponseFormat | undefined {
  if (value === undefined || value === null) return undefined;
  const { type, name, schema } = record(value, 'responseFormat');
  if (type === 'json_object') return { type };
  if (type !== 'json_schema') fail('responseFormat.type', type as PlainData);
  return { type: 'json_schema', name: string(name as PlainData, 'responseFormat.name'), schema: string(schema as PlainData, 'responseFormat.schema') };
}

/**
 * A leg for an engine. One for an adapter or a format that the engine lacks is refused, whatever the engine would do: it may move on. Throws
 * `SERVING_MESSAGE_INVALID` too.
 */
export function parseRequestFor({ info: { adapters = [] }, abilities: { responseFormats = [] } }: Pick<EngineBackend, 'info' | 'abilities'>, message: PlaneMessage): EngineRequestFields {
  const request = parseRequest(message);
  const { adapter, responseFormat } = request;
  if (responseFormat !== undefined && !responseFormats.includes(responseFormat.type)) {
    throw new ArmatureError('SERVING_FORMAT_UNSUPPORTED', `this worker's engine cannot guide decoding to ${responseFormat.type}`, { hint: 'the caller went by an older registration, or knows no formats', retryable: true });
  }
  if (adapter === undefined || adapters.includes(adapter)) return request;
  throw new ArmatureError('SERVING_ADAPTER_UNKNOWN', `this worker's engine has no adapter "${adapter}"`, { hint: `it has ${adapters.join(', ') || 'none'}; the caller went by an older registration`, retryable: true });
}

/** The engine's own words for a remote lease, when the message carries them. */
export function parseOpaqueSource(message: PlaneMessage): KvSource | undefined {
  const params = message['opaqueSource'];
  return params === undefined || params === null ? undefined : { type: 'opaque', params: record(params, 'opaqueSource') };
}

export function parsePullSource(message: PlaneMessage): PullSource {
  const source = record(message['source'], 'source');
  if (!(source['agentMetadata'] instanceof Uint8Array)) fail('source.agentMetadata', source['agentMetadata']);
  return {
    address: string(source['address'], 'source.address'),
    agentMetadata: source['agentMetadata'],
    layoutFingerprint: string(source['layoutFingerprint'], 'source.layoutFingerprint'),
    ...(source['kvConversion'] === undefined ? {} : { kvConversion: string(source['kvConversion'], 'source.kvConversion') }),
  };
}

/** Names a prefill worker as the place to pull from. */
export function pullSourceOf({ address, agentMetadata, layoutFingerprint, kvConversion }: WorkerRecord): PullSource {
  return { address, agentMetadata, layoutFingerprint, ...(kvConversion === undefined ? {} : { kvConversion }) };
}

/** Workers that hold more of a prompt than the one that takes it, for its block manager. */
export function parsePeers(message: PlaneMessage): readonly KvPeer[] {
  const peers = message['peers'];
  if (peers === undefined || peers === null) return NO_PEERS;
  if (!Array.isArray(peers)) fail('peers', peers as PlainData);
  return (peers as readonly PlainData[]).map((entry) => {
    const peer = record(entry, 'peers[]');
    if (!(peer['agentMetadata'] instanceof Uint8Array)) fail('peers[].agentMetadata', peer['agentMetadata']);
    return {
      instanceId: string(peer['instanceId'], 'peers[].instanceId'),
      address: string(peer['address'], 'peers[].address'),
      agentMetadata: peer['agentMetadata'],
      layoutFingerprint: string(peer['layoutFingerprint'], 'peers[].layoutFingerprint'),
      blocks: number(peer['blocks'], 'peers[].blocks'),
    };
  });
}

export function loanMessage(loan: KvLoan): PlaneMessage {
  return { type: 'loan', ...loan };
}

/** Undefined: refused. */
export function parseLoan(message: PlaneMessage | undefined): KvLoan | undefined {
  if (message === undefined || message.type !== 'loan') return undefined;
  return {
    lease: number(message['lease'], 'lease'),
    segment: number(message['segment'], 'segment'),
    blocks: ints(message['blocks'], 'blocks'),
    checksums: ints(message['checksums'], 'checksums'),
    blockStrideBytes: number(message['blockStrideBytes'], 'blockStrideBytes'),
    lengthBytes: number(message['lengthBytes'], 'lengthBytes'),
  };
}

export function fetchedMessage(fetched: KvFetchRecord): PlaneMessage {
  return { type: 'fetched', record: fetched as unknown as PlainData };
}

/** For the request's record only: taken as it is, as far as it is one. */
export function parseFetched(message: PlaneMessage): KvFetchRecord {
  const fetched = record(message['record'], 'record');
  if (!Array.isArray(fetched['runs'])) fail('record.runs', fetched['runs']);
  number(fetched['onboardedBlocks'], 'record.onboardedBlocks');
  number(fetched['waitedMs'], 'record.waitedMs');
  return fetched as unknown as KvFetchRecord;
}

export function intsField(message: PlaneMessage, field: string): Int32Array {
  return ints(message[field], field);
}

export function stringField(message: PlaneMessage, field: string): string {
  return string(message[field], field);
}

export function handoverMessage(handover: PrefillHandover): PlaneMessage {
  return {
    type: 'prefilled',
    lease: handover.lease,
    blocks: handover.blocks.slice(),
    tokens: handover.tokens,
    cachedTokens: handover.cachedTokens,
    ...(handover.params === undefined ? {} : { params: handover.params as PlainData }),
  };
}

export function parseHandover(message: PlaneMessage): PrefillHandover {
  const params = message['params'];
  return {
    lease: number(message['lease'], 'lease'),
    blocks: ints(message['blocks'], 'blocks'),
    tokens: number(message['tokens'], 'tokens'),
    cachedTokens: number(message['cachedTokens'], 'cachedTokens'),
    ...(params === undefined || params === null ? {} : { params: record(params, 'params') }),
  };
}

/** Copies a borrowed batch into a message whose shape is a TokenBatch again. */
export function tokensMessage(batch: TokenBatch): PlaneMessage {
  const { count, topCount } = batch;
  return {
    type: 'tokens',
    count,
    tokenIds: batch.tokenIds.slice(0, count),
    choices: batch.choices?.slice(0, count),
    finish: batch.finish.slice(0, count),
    logprobs: batch.logprobs?.slice(0, count),
    topCount,
    topTokenIds: batch.topTokenIds?.slice(0, count * topCount),
    topLogprobs: batch.topLogprobs?.slice(0, count * topCount),
  };
}

/** A `tokens` message read as a batch; the message is the batch, no copy. Throws `SERVING_MESSAGE_INVALID`. */
export function tokensFrom(message: PlaneMessage): TokenBatch {
  const { tokenIds, finish } = message;
  if (!(tokenIds instanceof Int32Array) || !(finish instanceof Uint8Array) || finish.length < tokenIds.length) fail('tokens', tokenIds);
  if (typeof message['count'] === 'number') return message as unknown as TokenBatch;
  return { ...(message as unknown as TokenBatch), count: tokenIds.length, topCount: (message['topCount'] as number | undefined) ?? 0 };
}

export function numberField(message: PlaneMessage, field: string): number {
  return number(message[field], field);
}
