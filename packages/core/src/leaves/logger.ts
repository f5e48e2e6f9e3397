import { writeSync } from 'node:fs';
import type { Clock, LogFields, Logger } from '@armature/contracts';
import { pino } from 'pino';
import type { Logger as Pino } from 'pino';

export type LogLevel = 'debug' | 'info' | 'warn' | 'error' | 'silent';

export interface LoggerOptions {
  readonly level?: LogLevel;
  /** `json`: one object a line; `pretty`: for people at a terminal. */
  readonly format?: 'json' | 'pretty';
  readonly clock?: Clock;
  /** Receives whole lines, newline included. Default: standard error. */
  readonly write?: (line: string) => void;
  readonly colors?: boolean;
}

/** Lines leave through here, so that values marked `x-secret` in the configuration are never written, whoever logs them. */
export class LogOutput {
  readonly #write: (line: string) => void;
  readonly #pretty: boolean;
  readonly #colors: boolean;
  #secrets: readonly string[] = [];

  constructor(options: LoggerOptions) {
    this.#write = options.write ?? writeToStderr;
    this.#pretty = options.format === 'pretty';
    this.#colors = options.colors ?? (options.write === undefined && process.stderr.isTTY === true && process.env['NO_COLOR'] === undefined);
  }

  /** Short values would hide half of every line; they are masked in the effective config only. */
  hide(secrets: readonly string[]): void {
    this.#secrets = secrets.filter((secret) => secret.length >= 4).map((secret) => JSON.stringify(secret).slice(1, -1));
  }

  write(line: string): void {
    let text = line;
    for (const secret of this.#secrets) if (text.includes(secret)) text = text.replaceAll(secret, '***');
    this.#write(this.#pretty ? prettyLine(text, this.#colors) : text);
  }
}

/** Structured log by pino: `{time, level, message, ...fields}` as JSON lines. */
export class PinoLogger implements Logger {
  readonly #pino: Pino;
  readonly output: LogOutput;

  constructor(options: LoggerOptions = {}, inner?: { readonly pino: Pino; readonly output: LogOutput }) {
    this.output = inner?.output ?? new LogOutput(options);
    this.#pino = inner?.pino ?? createPino(options, this.output);
  }

  debug(message: string, fields?: LogFields): void {
    this.#pino.debug(fields ?? {}, message);
  }

  info(message: string, fields?: LogFields): void {
    this.#pino.info(fields ?? {}, message);
  }

  warn(message: string, fields?: LogFields): void {
    this.#pino.warn(fields ?? {}, message);
  }

  error(message: string, fields?: LogFields): void {
    this.#pino.error(fields ?? {}, message);
  }

  child(fields: LogFields): PinoLogger {
    return new PinoLogger({}, { pino: this.#pino.child(fields), output: this.output });
  }

  isEnabled(level: 'debug' | 'info' | 'warn' | 'error'): boolean {
    return this.#pino.isLevelEnabled(level);
  }

  /** Changes this logger, not children made before. */
  setLevel(level: LogLevel): void {
    this.#pino.level = level;
  }
}

function createPino(options: LoggerOptions, output: LogOutput): Pino {
  const clock = options.clock;
  return pino(
    {
      level: options.level ?? 'info',
      base: null,
      messageKey: 'message',
      formatters: { level: (label) => ({ level: label }) },
      timestamp: () => `,"time":"${new Date(clock?.wallMs() ?? Date.now()).toISOString()}"`,
    },
    output,
  );
}

function writeToStderr(line: string): void {
  try {
    writeSync(2, line);
  } catch {
    // A closed or full pipe must not stop the process that logs.
  }
}

const COLORS: Readonly<Record<string, string>> = { debug: '\u001b[2m', info: '\u001b[32m', warn: '\u001b[33m', error: '\u001b[31m' };

/** `12:30:01.250 warn  engine lost  worker=decode/0 code=ENGINE_LOST` */
export function prettyLine(line: string, colors = false): string {
  let record: Record<string, unknown>;
  try {
    record = JSON.parse(line) as Record<string, unknown>;
  } catch {
    return line;
  }
  const { time, level, message, ...fields } = record;
  const label = String(level).padEnd(5);
  const paint = (text: string, color: string): string => (colors ? `${color}${text}\u001b[0m` : text);
  const parts = [String(time).slice(11, 23), paint(label, COLORS[String(level)] ?? ''), String(message)];
  const rest = Object.entries(fields).map(([key, value]) => `${paint(`${key}=`, '\u001b[2m')}${fieldText(value)}`);
  return `${parts.join(' ')}${rest.length === 0 ? '' : `  ${rest.join(' ')}`}\n`;
}

function fieldText(value: unknown): string {
  const text = typeof value === 'string' ? value : JSON.stringify(value);
  return text === undefined || /[\s"]/.test(text) ? JSON.stringify(text) : text;
}
