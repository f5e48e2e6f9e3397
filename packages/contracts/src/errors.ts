const MARK = Symbol.for('armature/error');

/** An error as plain data: what crosses planes, logs and HTTP bodies. */
export interface ErrorData {
  readonly code: string;
  readonly message: string;
  readonly hint?: string;
  /** True when the same request may succeed elsewhere or later (worker lost, overloaded). */
  readonly retryable?: boolean;
  /** Refused for load by a queue in front of the workers; the edge answers so. */
  readonly refusal?: LoadRefusal;
}

/** How a client is told that a queue is full. (A type, not an interface: plain data that crosses planes.) */
export type LoadRefusal = {
  /** HTTP status: 429 = the caller's own limit, 503 and 529 = the server's. */
  readonly status: 429 | 503 | 529;
  /** When to come back, from the measured drain rate; >= 1000. */
  readonly retryAfterMs: number;
};

export interface ArmatureErrorOptions {
  /** What to do about it, in one sentence. */
  readonly hint?: string;
  readonly cause?: unknown;
  readonly retryable?: boolean;
  /** Facts for programs: file, line, key, limit, found. Plain data. */
  readonly details?: Readonly<Record<string, unknown>>;
}

/**
 * The one error class of the platform. `code` is API (`AREA_WHAT`); the message says what was found, the hint what to do.
 * Test with `ArmatureError.is(x)`, never `instanceof`: a plug-in may carry its own copy of this package.
 */
export class ArmatureError extends Error {
  readonly code: string;
  readonly hint: string | undefined;
  readonly retryable: boolean;
  readonly details: Readonly<Record<string, unknown>>;
  readonly [MARK]: true;

  constructor(code: string, message: string, options: ArmatureErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'ArmatureError';
    this.code = code;
    this.hint = options.hint;
    this.retryable = options.retryable ?? false;
    this.details = options.details ?? {};
    this[MARK] = true;
  }

  static is(value: unknown): value is ArmatureError {
    return typeof value === 'object' && value !== null && (value as { [MARK]?: unknown })[MARK] === true;
  }

  /** Any thrown value as an ArmatureError; unknown ones become `fallbackCode`, with the original as cause. */
  static from(value: unknown, fallbackCode = 'INTERNAL_ERROR'): ArmatureError {
    if (ArmatureError.is(value)) return value;
    const message = value instanceof Error ? value.message : String(value);
    return new ArmatureError(fallbackCode, message, { cause: value });
  }

  static fromData(data: ErrorData): ArmatureError {
    return new ArmatureError(data.code, data.message, {
      ...(data.hint === undefined ? {} : { hint: data.hint }),
      retryable: data.retryable ?? false,
    });
  }

  toData(): ErrorData {
    return {
      code: this.code,
      message: this.message,
      ...(this.hint === undefined ? {} : { hint: this.hint }),
      ...(this.retryable ? { retryable: true } : {}),
    };
  }
}
