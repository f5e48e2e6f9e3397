import type { ErrorData } from '@armature/contracts';
import type { S3TierConfig } from './config.ts';
import type { S3Failure } from './s3-failure.ts';

/** What the operator is told. */
export function describeProblem(failure: S3Failure, config: Pick<S3TierConfig, 'bucket' | 'endpoint'>): ErrorData {
  const where = `bucket "${config.bucket}"${config.endpoint === '' ? '' : ` at ${config.endpoint}`}`;
  if (failure.isBucketWrong) {
    return { code: 'KVBM_S3_NO_BUCKET', message: `${where} does not exist`, hint: 'create it, or name another; the tier creates none' };
  }
  if (failure.isRedirect) {
    return {
      code: 'KVBM_S3_WRONG_REGION',
      message: `${where} is elsewhere: ${failure.message}`,
      hint: failure.region === undefined ? 'set region and endpoint to where the bucket is; redirects are not followed' : `set region "${failure.region}" (and its endpoint); redirects are not followed`,
    };
  }
  if (failure.isDenied) {
    return { code: 'KVBM_S3_DENIED', message: `${where} refuses us: ${failure.message}`, hint: 'check the credentials and the clock; needed are s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket' };
  }
  return { code: 'KVBM_S3_UNAVAILABLE', message: `${where} does not answer as it should: ${failure.message}`, hint: 'look at the object store and the way to it; requests go on without this tier, which asks again by itself' };
}

/** Nothing that happens later will make this configuration work. */
export function isFinal(failure: S3Failure): boolean {
  return failure.isDenied && failure.code !== 'ExpiredToken' && failure.code !== 'RequestTimeTooSkewed';
}
