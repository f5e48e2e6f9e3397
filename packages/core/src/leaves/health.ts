import type { Health, HealthState } from '@armature/contracts';

// From best to worst: the state of the whole is the worst of its parts.
const ORDER: readonly HealthState[] = ['ready', 'degraded', 'starting', 'draining', 'failed'];

export class HealthRegistry implements Health {
  readonly #components = new Map<string, { state: HealthState; reason?: string }>();

  set(component: string, state: HealthState, reason?: string): void {
    this.#components.set(component, reason === undefined ? { state } : { state, reason });
  }

  remove(component: string): void {
    this.#components.delete(component);
  }

  report(): ReturnType<Health['report']> {
    let worst = 0;
    const components: Record<string, { state: HealthState; reason?: string }> = {};
    for (const [name, value] of this.#components) {
      components[name] = { ...value };
      worst = Math.max(worst, ORDER.indexOf(value.state));
    }
    return { state: ORDER[worst] as HealthState, components };
  }
}
