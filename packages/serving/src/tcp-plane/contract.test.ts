import { describe, it } from 'vitest';
import { requestPlaneContract } from '@armature/contracts/testing/request-plane';
import { makePlane } from './test-planes.test.support.ts';

const unreachableAddress = 'tcp://127.0.0.1:1/nobody';

describe('tcp, dialling itself', () => {
  requestPlaneContract({ runner: { describe, it }, create: async () => started(), unreachableAddress });
});
describe('tcp, two processes', () => {
  requestPlaneContract({ runner: { describe, it }, create: async () => started(), connect: async () => started(), unreachableAddress });
});
async function started(): Promise<ReturnType<typeof makePlane>> {
  const plane = makePlane();
  await plane.start();
  return plane;
}
