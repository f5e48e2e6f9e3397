import { ArmatureError } from '@armature/contracts';
import type { RequestRecord } from '@armature/serving';
import { adminGet } from './admin-client.ts';
import { explainRequest } from './explain.ts';

export interface ExplainOptions {
  readonly admin: string;
  readonly json: boolean;
}

/** `armature explain REQUEST_ID`: why a request went where it went, and what came of it. */
export async function explain(requestId: string, options: ExplainOptions): Promise<void> {
  const body = await adminGet(options.admin, `/requests/${encodeURIComponent(requestId)}`);
  if (body === undefined) {
    throw new ArmatureError('CHAT_REQUEST_UNKNOWN', `nothing is known of request "${requestId}"`, {
      hint: 'the id is in the x-request-id header of the answer; the last `records` requests are kept (GET /requests lists them)',
    });
  }
  if (options.json) {
    process.stdout.write(`${body}\n`);
    return;
  }
  const record = JSON.parse(body) as RequestRecord;
  process.stdout.write(`${record.requestId}  ${record.model}  ${record.outcome}\n${explainRequest(record)}\n`);
}
