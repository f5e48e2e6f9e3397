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
describe('tcp, small socket writes', () => {
  requestPlaneContract({ runner: { describe, it }, create: async () => started(), connect: async () => started({ highWaterBytes: 1024 }), unreachableAddress });
});

async function started(options: Parameters<typeof makePlane>[0] = {}): Promise<ReturnType<typeof makePlane>> {
  const plane = makePlane(options);
  await plane.start();
  return plane;
}
