import { readFileSync } from 'node:fs';
import type net from 'node:net';
import tls from 'node:tls';
import { ArmatureError } from '@armature/contracts';

/** Fields as in the plug-in's schema. Paths of PEM files. */
export interface TlsConfig {
  readonly certFile?: string;
  readonly keyFile?: string;
  readonly caFile?: string;
  readonly serverName?: string;
  /** Whether the owner asks initiators for a certificate of its CA. */
  readonly mutual?: boolean;
}

/** Certificates and keys, read once. */
export interface TlsMaterial {
  readonly server: tls.TlsOptions;
  readonly client: tls.ConnectionOptions;
  /** `TLS_FAILED` behind the user's prefix when the error is about certificates or the TLS handshake. */
  codeOf(error: Error): string | undefined;
}

const TLS_CODES = /^(CERT_|ERR_TLS|ERR_SSL|DEPTH_ZERO|SELF_SIGNED|UNABLE_TO|INVALID_CA|HOSTNAME_MISMATCH)/;

/** Who asks: what errors are called. */
export interface TlsUser {
  /** `TRANSFER` makes `TRANSFER_TLS_INVALID`. */
  readonly prefix: string;
  readonly what: string;
}

const TRANSPORT: TlsUser = { prefix: 'TRANSFER', what: 'the tcp transport' };

/** Undefined: no TLS. Throws `TRANSFER_TLS_INVALID` (or the user's) for a file that is missing or no certificate. */
export function tlsMaterial(config: TlsConfig | undefined, user: TlsUser = TRANSPORT): TlsMaterial | undefined {
  if (config?.certFile === undefined || config.certFile === '') return undefined;
  const cert = pem('certFile', config.certFile, user);
  const key = pem('keyFile', config.keyFile, user);
  const ca = config.caFile === undefined || config.caFile === '' ? undefined : pem('caFile', config.caFile, user);
  const mutual = config.mutual ?? true;
  const common: tls.SecureContextOptions = { cert, key, ...(ca === undefined ? {} : { ca }), minVersion: 'TLSv1.3' };
  try {
    tls.createSecureContext(common);
  } catch (error) {
    throw invalid('a certificate and key that do not fit', error, user);
  }
  return {
    server: { ...common, requestCert: mutual, rejectUnauthorized: mutual },
    client: { ...common, ...(config.serverName === undefined || config.serverName === '' ? {} : { servername: config.serverName }) },
    codeOf: (error) => (TLS_CODES.test((error as NodeJS.ErrnoException).code ?? '') ? `${user.prefix}_TLS_FAILED` : undefined),
  };
}

/** A connection that is made only when the listener's certificate is good for the name. The payload is decrypted by OpenSSL into Node's buffers: it cannot land directly. */
export function connectTls(address: { readonly host: string; readonly port: number }, material: TlsMaterial, onChunk?: (chunk: Buffer) => void): net.Socket {
  const { servername = address.host } = material.client;
  // An IP address is no server name for SNI; the certificate is checked against it all the same.
  const name = /^[\d.]+$|:/.test(servername) ? {} : { servername };
  const socket = tls.connect({ ...address, ...material.client, ...name, checkServerIdentity: (_host, certificate) => tls.checkServerIdentity(servername, certificate) });
  socket.setNoDelay(true);
  if (onChunk !== undefined) socket.on('data', onChunk);
  return socket;
}

function pem(field: string, path: string | undefined, user: TlsUser): Buffer {
  try {
    return readFileSync(path ?? '');
  } catch (error) {
    throw invalid(`no readable ${field} "${path ?? ''}"`, error, user);
  }
}

function invalid(found: string, cause: unknown, { prefix, what }: TlsUser): ArmatureError {
  return new ArmatureError(`${prefix}_TLS_INVALID`, `${what} has ${found}: ${cause instanceof Error ? cause.message : String(cause)}`, { hint: 'name PEM files of a certificate and its key', cause });
}
