import type { ErrorData, HttpHeaders, LoadRefusal } from '@armature/contracts';

/** What the client is told about a failure: the OpenAI error envelope plus its HTTP status and retry advice. */
export interface ApiProblem {
  readonly status: number;
  readonly type: string;
  /** Always a string: SDKs match on it. */
  readonly code: string;
  readonly message: string;
  /** The offending field, `messages[0].content`; null when none. */
  readonly param: string | null;
  /** 0: no `retry-after`. */
  readonly retryAfterMs: number;
  /** Sent as `x-should-retry`; undefined: the SDK's own rule holds. */
  readonly shouldRetry: boolean | undefined;
}

/** A request that cannot be served, found before it reached an engine. Internal to this package: handlers turn it into a reply. */
export class ApiError extends Error {
  readonly problem: ApiProblem;
  constructor(problem: ApiProblem) {
    super(problem.message);
    this.name = 'ApiError';
    this.problem = problem;
  }
}

/** A 400 that names the field. */
export function badRequest(param: string | null, code: string, message: string): ApiError {
  return new ApiError({ status: 400, type: 'invalid_request_error', code, message, param, retryAfterMs: 0, shouldRetry: undefined });
}

export function problem(status: number, type: string, code: string, message: string): ApiProblem {
  return { status, type, code, message, param: null, retryAfterMs: 0, shouldRetry: undefined };
}

export function unsupported(param: string, message: string): ApiError {
  return badRequest(param, 'unsupported_parameter', message);
}

/** `{"error":{…}}` as every endpoint and every stream sends it. */
export function errorBody(of: ApiProblem): string {
  return `{"error":{"message":${JSON.stringify(of.message)},"type":${JSON.stringify(of.type)},"param":${of.param === null ? 'null' : JSON.stringify(of.param)},"code":${JSON.stringify(of.code)}}}`;
}

/** Headers of an error reply, retry advice included. */
export function errorHeaders(of: ApiProblem, requestId: string): HttpHeaders {
  const headers: Record<string, string> = { 'content-type': 'application/json', 'x-request-id': requestId };
  if (of.retryAfterMs > 0) {
    headers['retry-after'] = String(Math.max(1, Math.ceil(of.retryAfterMs / 1000)));
    headers['retry-after-ms'] = String(Math.ceil(of.retryAfterMs));
  }
  if (of.shouldRetry !== undefined) headers['x-should-retry'] = of.shouldRetry ? 'true' : 'false';
  if (of.status === 401) headers['www-authenticate'] = 'Bearer';
  return headers;
}

type Class = 'request' | 'context' | 'overload' | 'unavailable' | 'timeout';

/** Codes other packages give to failures, and what they mean over HTTP. Anything not listed and not matched by a rule below is a 500. */
const CLASS_BY_CODE: Readonly<Record<string, Class>> = {
  ENGINE_PROMPT_TOO_LONG: 'context',
  ENGINE_PROMPT_EMPTY: 'request',
  ENGINE_CHOICES_INVALID: 'request',
  ENGINE_LOGPROBS_INVALID: 'request',
  ENGINE_MAX_TOKENS_INVALID: 'request',
  ENGINE_REQUEST_UNSUPPORTED: 'request',
  SERVING_WORKER_UNKNOWN: 'request',
  ENGINE_OVERLOADED: 'overload',
  ENGINE_QUEUE_FULL: 'overload',
  SERVING_OVERLOADED: 'overload',
  SERVING_QUEUE_TIMEOUT: 'overload',
  SERVING_NO_WORKER: 'unavailable',
  SERVING_NO_ADAPTER_WORKER: 'unavailable',
  SERVING_NO_FORMAT_WORKER: 'unavailable',
  SERVING_FORMAT_UNSUPPORTED: 'unavailable',
  SERVING_NO_PREFILL_WORKER: 'unavailable',
  SERVING_WORKER_LOST: 'unavailable',
  SERVING_DEADLINE_EXCEEDED: 'timeout',
  PLANE_DEADLINE_EXCEEDED: 'timeout',
};

/** For codes not listed, of plug-ins this package does not know. Broken files and layouts are the operator's, not the client's. */
const RULES: readonly (readonly [RegExp, Class])[] = [
  [/^PREPROCESSOR_(?!FILE_|TOKENIZER_|TEMPLATE_INVALID)/, 'request'],
  [/_DEADLINE_EXCEEDED$/, 'timeout'],
  [/_(OVERLOADED|QUEUE_FULL)$/, 'overload'],
  [/_(NO_WORKER|WORKER_LOST|DRAINING|UNREACHABLE|DISCONNECTED)$/, 'unavailable'],
];

function classOf(error: ErrorData): Class | undefined {
  const listed = CLASS_BY_CODE[error.code];
  if (listed !== undefined) return listed;
  for (const [pattern, of] of RULES) if (pattern.test(error.code)) return of;
  return error.retryable === true ? 'unavailable' : undefined;
}

/**
 * What the client sees of a failure inside. Messages of 400s are for the client and pass; those of 5xx may name hosts and files,
 * so the client gets a fixed sentence and the code, and the log gets the rest.
 */
export function problemFromError(error: ErrorData, overloadStatus: number): ApiProblem {
  // Refused by a queue in front of the workers, which knows its own status and when there is room again.
  if (error.refusal !== undefined) return refused(error.code, error.refusal);
  const told = error.hint === undefined ? error.message : `${error.message} (${error.hint})`;
  switch (classOf(error)) {
    case 'context':
      return problem(400, 'invalid_request_error', 'context_length_exceeded', told);
    case 'request':
      return problem(400, 'invalid_request_error', error.code, told);
    case 'overload':
      return overloaded(overloadStatus, error.code, 1000);
    case 'unavailable':
      return {
        ...problem(503, 'service_unavailable', error.code, 'No worker can answer this request at the moment. Try again shortly.'),
        retryAfterMs: 1000,
        shouldRetry: true,
      };
    case 'timeout':
      return timedOut(error.code);
    case undefined:
      return { ...problem(500, 'server_error', 'internal_error', 'The server failed while it processed the request.'), shouldRetry: false };
  }
}

function refused(code: string, { status, retryAfterMs }: LoadRefusal): ApiProblem {
  const of = overloaded(status, code, retryAfterMs);
  return status === 429 ? { ...of, message: 'Too many of your requests wait already. Try again later.' } : of;
}

export function overloaded(status: number, code: string, retryAfterMs: number): ApiProblem {
  return {
    ...problem(status, status === 429 ? 'rate_limit_error' : 'overloaded_error', code, 'The server is at its limit of concurrent work. Try again later.'),
    retryAfterMs,
    shouldRetry: true,
  };
}

export function timedOut(code = 'deadline_exceeded'): ApiProblem {
  // A retry would spend the same time again and finds the server no faster.
  return { ...problem(504, 'timeout_error', code, 'The request did not finish within its time limit.'), shouldRetry: false };
}
