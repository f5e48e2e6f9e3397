import { ArmatureError } from '@armature/contracts';

const TLS = /certificate|self.signed|\bssl\b|\btls\b|alert|wrong version number|altname|alternative name/i;
const DENIED = /authentication failed|permission denied|user name is empty|authentication is not enabled|role name not found/i;

/** The server's or the network's word as a coded error. Those marked retryable say that the endpoint cannot be used now. */
export function etcdError(error: unknown, endpoint: string): ArmatureError {
  if (ArmatureError.is(error)) return error;
  const text = error instanceof Error ? error.message : String(error);
  const at = `etcd at ${endpoint}`;
  if (DENIED.test(text)) {
    return new ArmatureError('DISCOVERY_ACCESS_DENIED', `${at} refuses this user: ${text}`, { hint: 'check discovery.config.username and password, and that the role may read and write the namespace', cause: error });
  }
  if (/request is too large|larger than max/i.test(text)) {
    return new ArmatureError('DISCOVERY_VALUE_TOO_LARGE', `${at} refuses the value: ${text}`, { hint: 'register less, or raise --max-request-bytes of etcd', cause: error });
  }
  if (/database space exceeded|NOSPACE/i.test(text)) {
    return new ArmatureError('DISCOVERY_STORE_FULL', `${at} has no space left: ${text}`, { hint: 'compact and defragment etcd, then disarm its alarm: etcdctl alarm disarm', cause: error });
  }
  if (/lease not found|lease .* (expired|revoked)/i.test(text)) {
    return new ArmatureError('DISCOVERY_LEASE_LOST', `${at} has ended the lease of this process`, { hint: 'nothing: a new one is taken and the entries are written again', cause: error });
  }
  if (TLS.test(text)) {
    return new ArmatureError('DISCOVERY_TLS_FAILED', `no TLS connection to ${at}: ${text}`, { hint: 'check discovery.config.tls (caFile, certFile, keyFile, serverName) and the scheme of the endpoint', cause: error, retryable: true });
  }
  return new ArmatureError('DISCOVERY_UNREACHABLE', `${at} does not answer: ${text}`, { hint: 'check that etcd runs and that discovery.config.endpoints name it', cause: error, retryable: true });
}

export function closedError(what: string): ArmatureError {
  return new ArmatureError('DISCOVERY_CLOSED', `${what} after discovery was closed`, { hint: 'register and watch before close' });
}

export function takenError(key: string): ArmatureError {
  return new ArmatureError('DISCOVERY_KEY_TAKEN', `another owner holds the key "${key}"`, {
    hint: 'give this instance another name, or wait until the other one has gone (a killed one: until its time to live has passed)',
  });
}

/** Waiting again does not help: somebody has to change the configuration. */
export function isFinal(error: ArmatureError): boolean {
  return error.code === 'DISCOVERY_ACCESS_DENIED' || error.code === 'DISCOVERY_CLUSTER_CONFLICT';
}
