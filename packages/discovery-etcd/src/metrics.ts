import type { Counter, Gauge, Metrics } from '@armature/contracts';

/** What `/metrics` says of discovery. */
export class DiscoveryGauges {
  readonly reconnects: Counter;
  readonly leaseLosses: Counter;
  readonly reregistrations: Counter;
  readonly watchResumes: Counter;
  readonly watchSnapshots: Counter;
  readonly entries: Gauge;
  readonly registrations: Gauge;
  readonly heldRemovals: Gauge;
  readonly #connected: Gauge;

  constructor(metrics: Metrics) {
    const counter = (name: string, help: string): Counter => metrics.counter({ name: `armature_discovery_${name}`, help }).with();
    const gauge = (name: string, help: string): Gauge => metrics.gauge({ name: `armature_discovery_${name}`, help }).with();
    const restarts = metrics.counter({ name: 'armature_discovery_watch_restarts_total', help: 'Watches that went on: from their revision, or by a new snapshot.', labelNames: ['by'] });
    this.reconnects = counter('reconnects_total', 'Connections to etcd after the first one.');
    this.leaseLosses = counter('lease_losses_total', 'Leases that ended although their owner lives.');
    this.reregistrations = counter('reregistrations_total', 'Entries written again by their owner under a new lease.');
    this.watchResumes = restarts.with('revision');
    this.watchSnapshots = restarts.with('snapshot');
    this.entries = gauge('entries', 'Entries known to the watches of this process, summed over them.');
    this.registrations = gauge('registrations', 'Entries that this process owns.');
    this.heldRemovals = gauge('held_removals', 'Removals seen after an outage and held back until the grace is over.');
    this.#connected = gauge('connected', '1 while an endpoint of etcd answers.');
  }

  connected(is: boolean): void {
    this.#connected.set(is ? 1 : 0);
  }
}
