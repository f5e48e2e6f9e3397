// @hot
import type { Candidates, RouterFilter, RoutingRequest } from '@armature/contracts';

/** Workers must carry every taint that the request requires. */
export class RequiredTaintsFilter implements RouterFilter {
  readonly name = 'required-taints';

  applies(request: RoutingRequest): boolean {
    return request.requiredTaints.length > 0;
  }

  filter(request: RoutingRequest, candidates: Candidates, excluded: Uint8Array): void {
    for (let t = 0; t < request.requiredTaints.length; t++) {
      const taint = request.requiredTaints[t];
      for (let i = 0; i < candidates.count; i++) if (!candidates.workers[i].taints.includes(taint)) excluded[i] = 1;
    }
  }
}
