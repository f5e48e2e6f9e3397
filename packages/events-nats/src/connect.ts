import { readFileSync } from 'node:fs';
import { ArmatureError } from '@armature/contracts';
import type { Clock, Random } from '@armature/contracts';
import { connect, credsAuthenticator, nkeyAuthenticator } from 'nats';
import type { Authenticator, ConnectionOptions, NatsConnection } from 'nats';

export interface NatsTlsConfig {
  readonly caFile?: string;
  readonly certFile?: string;
  readonly keyFile?: string;
}
export interface NatsConnectionConfig {
  readonly servers: readonly string[];
  readonly user?: string;
  readonly password?: string;
  readonly token?: string;
  readonly nkeySeed?: string;
  readonly credentialsFile?: string;
  readonly tls?: NatsTlsConfig;
  readonly startTimeoutMs: number;
  readonly pingMs: number;
  readonly reconnectMs: number;
  readonly maxReconnectMs: number;
}

const RETRY_MS = 200;
const REFUSED: readonly string[] = ['AUTHORIZATION_VIOLATION', 'AUTHENTICATION_EXPIRED', 'BAD_AUTHENTICATION', 'BAD_CREDS', 'PERMISSIONS_VIOLATION'];

/** Tries until `startTimeoutMs` have passed. Throws `EVENTS_NATS_UNAUTHORIZED` at once, `EVENTS_NATS_UNREACHABLE` at the end. */
export async function connectNats(config: NatsConnectionConfig, clock: Clock, random: Random): Promise<NatsConnection> {
  const giveUpAt = clock.nowMs() + config.startTimeoutMs;
  const nextDelayMs = backoff(config, clock, random);
  for (;;) {
    try {
      return await connect(connectionOptions(config, nextDelayMs, Math.max(1, giveUpAt - clock.nowMs())));
    } catch (error) {
      const { code } = error as { readonly code?: string };
      if (code !== undefined && REFUSED.includes(code)) {
        throw new ArmatureError('EVENTS_NATS_UNAUTHORIZED', `the NATS server at ${config.servers.join(', ')} refused the credentials: ${code}`, {
          hint: 'correct `user` and `password`, `token`, `nkeySeed` or `credentialsFile` of `events`',
          cause: error,
        });
      }
      if (clock.nowMs() + RETRY_MS >= giveUpAt) {
        throw new ArmatureError('EVENTS_NATS_UNREACHABLE', `no NATS server answered at ${config.servers.join(', ')} within ${config.startTimeoutMs} ms: ${code ?? String(error)}`, {
          hint: 'start nats-server, or correct `events.config.servers`; `startTimeoutMs` says how long to wait',
          cause: error,
        });
      }
      await clock.sleep(RETRY_MS);
    }
  }
}

function connectionOptions(config: NatsConnectionConfig, nextDelayMs: () => number, timeoutMs: number): ConnectionOptions {
  const authenticator = authenticatorOf(config);
  return {
    servers: [...config.servers],
    name: `armature-${process.pid}`,
    noEcho: true, // subscribers of this process are served without the server
    timeout: Math.ceil(timeoutMs),
    pingInterval: config.pingMs,
    maxPingOut: 2,
    maxReconnectAttempts: -1,
    reconnectDelayHandler: nextDelayMs,
    ignoreAuthErrorAbort: true, // a server that restarts with other users comes back
    ...(config.user === undefined ? {} : { user: config.user }),
    ...(config.password === undefined ? {} : { pass: config.password }),
    ...(config.token === undefined ? {} : { token: config.token }),
    ...(authenticator === undefined ? {} : { authenticator }),
    ...(config.tls === undefined ? {} : { tls: { ...config.tls } }),
  };
}

function authenticatorOf({ nkeySeed, credentialsFile }: NatsConnectionConfig): Authenticator | undefined {
  if (nkeySeed !== undefined) return nkeyAuthenticator(new TextEncoder().encode(nkeySeed));
  return credentialsFile === undefined ? undefined : credsAuthenticator(readFileSync(credentialsFile));
}

/** nats.js asks before each attempt: longer each time while it goes on, with a third of chance, so that a cluster does not come back as one. */
function backoff({ reconnectMs, maxReconnectMs }: NatsConnectionConfig, clock: Clock, random: Random): () => number {
  let nextMs = reconnectMs;
  let askedAtMs = 0;
  return () => {
    const nowMs = clock.nowMs();
    if (nowMs - askedAtMs > maxReconnectMs * 4) nextMs = reconnectMs;
    askedAtMs = nowMs;
    const delayMs = nextMs * (1 + random.next() / 3);
    nextMs = Math.min(maxReconnectMs, nextMs * 2);
    return delayMs;
  };
}
