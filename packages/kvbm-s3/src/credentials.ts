import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { ArmatureError } from '@armature/contracts';
import type { Credentials } from './sigv4.ts';

/** Where credentials and defaults are looked for, so that tests can say what is there. */
export interface CredentialSources {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly home: string;
  /** Text of a file; undefined when it cannot be read. */
  read(path: string): string | undefined;
}

export interface CredentialConfig {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken: string;
  readonly profile: string;
}

export function machineSources(): CredentialSources {
  return {
    env: process.env,
    home: homedir(),
    read: (path) => {
      try {
        return readFileSync(path, 'utf8');
      } catch {
        return undefined;
      }
    },
  };
}

/**
 * Config, then (without a profile in config) environment, then the shared credentials file. Called again when the store says that a token has expired: files are
 * rewritten by whatever renews them. Throws `KVBM_S3_NO_CREDENTIALS`.
 */
export function resolveCredentials(config: CredentialConfig, sources: CredentialSources): Credentials {
  const given = complete(config.accessKeyId, config.secretAccessKey, config.sessionToken);
  if (given !== undefined) return given;
  const { env } = sources;
  if (config.profile === '') {
    const found = complete(env['AWS_ACCESS_KEY_ID'], env['AWS_SECRET_ACCESS_KEY'], env['AWS_SESSION_TOKEN']);
    if (found !== undefined) return found;
  }
  const profile = config.profile || env['AWS_PROFILE'] || 'default';
  const path = env['AWS_SHARED_CREDENTIALS_FILE'] || join(sources.home, '.aws', 'credentials');
  const fields = parseProfiles(sources.read(path) ?? '').get(profile);
  const filed = complete(fields?.get('aws_access_key_id'), fields?.get('aws_secret_access_key'), fields?.get('aws_session_token'));
  if (filed !== undefined) return filed;
  throw new ArmatureError('KVBM_S3_NO_CREDENTIALS', `no S3 credentials in config, environment, or profile "${profile}" of the shared credentials file`, {
    hint: 'set accessKeyId and secretAccessKey, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile; instance roles are not asked',
  });
}

function complete(accessKeyId: string | undefined, secretAccessKey: string | undefined, sessionToken: string | undefined): Credentials | undefined {
  if (!accessKeyId || !secretAccessKey) return undefined;
  return { accessKeyId, secretAccessKey, ...(sessionToken ? { sessionToken } : {}) };
}

/** The INI dialect of AWS: `[name]` or `[profile name]`, `key = value`, comments from `#` or `;` at the start of a line. */
export function parseProfiles(text: string): Map<string, Map<string, string>> {
  const profiles = new Map<string, Map<string, string>>();
  let current: Map<string, string> | undefined;
  for (const raw of text.split(/\r?\n/)) {
    const line = raw.trim();
    if (line === '' || line.startsWith('#') || line.startsWith(';')) continue;
    const section = /^\[(?:profile\s+)?([^\]]+)\]/.exec(line);
    if (section !== null) {
      current = new Map();
      profiles.set(section[1]!.trim(), current);
      continue;
    }
    const equals = line.indexOf('=');
    if (equals > 0) current?.set(line.slice(0, equals).trim().toLowerCase(), line.slice(equals + 1).trim());
  }
  return profiles;
}
