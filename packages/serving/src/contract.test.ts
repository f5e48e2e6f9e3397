import { disaggregationPolicyContract } from '@armature/contracts/testing/disaggregation-policy';
import { describe, it } from 'vitest';
import { always, conditional, never } from './policies/disaggregation.ts';

const context = undefined as never;
const conditionalConfig = { whenNoPrefillWorker: 'local', maxLocalTokens: 2048, maxLocalShare: 0.7, prefillBusyTokens: 8192, decodeBusyTokens: 8192 } as const;

disaggregationPolicyContract({ runner: { describe, it }, create: () => always.create({ whenNoPrefillWorker: 'fail' }, context) });
disaggregationPolicyContract({ runner: { describe, it }, create: () => never.create({}, context) });
for (const rule of ['isl-bounding', 'prefill-load', 'isl-or-load'] as const) {
  disaggregationPolicyContract({ runner: { describe, it }, create: () => conditional.create({ ...conditionalConfig, rule }, context) });
}
