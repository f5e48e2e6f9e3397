import type { ErrorData, InferenceRequest, WorkerRole } from '@armature/contracts';
import type { AdmissionQueue } from './admission-queue.ts';
import type { QueueListener, Ticket } from './ticket.ts';

/** What the record of a request says of its wait. */
export interface QueueRecord {
  /** Role of the workers it waited for. */
  readonly role: WorkerRole;
  /** `busy`: all eligible workers were; `backlog`: others of its class waited already. */
  readonly reason: 'busy' | 'backlog';
  /** Requests of its class that waited when it came. */
  readonly ahead: number;
  /** Eligible workers when it came, and how many of them were busy by which rule. */
  readonly workers: number;
  readonly busyByPrefillTokens: number;
  readonly busyByKvBlocks: number;
  /** Since it was parked first; undefined while it waits. */
  waitMs: number | undefined;
  /** `waiting`, `admitted`, `left` (cancelled, client gone) or the code of the refusal. */
  outcome: string;
}

export interface PassageOptions {
  readonly queue: AdmissionQueue;
  readonly request: InferenceRequest;
  readonly startedAtMs: number;
  readonly nowMs: () => number;
  /** Place the request now. */
  readonly admitted: () => void;
  readonly refused: (error: ErrorData) => void;
  readonly recorded: (record: QueueRecord) => void;
}

/** One request's way past the queue: once for the workers it is placed on first, once more when its prompt turns out to be computed by others. */
export class Passage implements QueueListener {
  readonly #options: PassageOptions;
  #ticket: Ticket | undefined;
  /** Of its first wait. */
  #first: Ticket | undefined;
  #record: QueueRecord | undefined;
  /** The role for which it has been admitted. */
  #passed: WorkerRole | undefined;

  constructor(options: PassageOptions) {
    this.#options = options;
  }

  /** True: the request is parked, or has been refused. False: it may be placed now. */
  holds(role: WorkerRole, uncachedTokens: () => number): boolean {
    if (this.#passed === role || this.#passed === 'prefill') return false; // who may prefill has been checked for decode too
    const { queue, request, startedAtMs } = this.#options;
    const { worker, prefillWorker, requiredTaints } = request.routing;
    const isPrefill = role === 'prefill';
    const gate = {
      role,
      worker: isPrefill ? prefillWorker : worker,
      decodeWorker: isPrefill ? worker : undefined,
      requiredTaints: requiredTaints ?? [],
      adapter: request.adapter,
    };
    const entry = queue.enter({ request, gate, deadlineAtMs: startedAtMs + request.deadlineMs, first: this.#first, uncachedTokens }, this);
    if (entry.type === 'free') return false;
    if (entry.type === 'refused') {
      this.#options.refused(entry.error);
      return true;
    }
    this.#keep(entry.ticket, entry.ahead, entry.occupancy, role);
    return true;
  }

  /** The request goes to a worker and computes this much of its prompt there. */
  dispatched(uncachedTokens: number): void {
    const ticket = this.#ticket;
    this.#ticket = undefined;
    if (ticket !== undefined) this.#options.queue.settle(ticket, uncachedTokens);
  }

  /** The request has ended, however: it leaves no residue. */
  ended(): void {
    const ticket = this.#ticket;
    if (ticket === undefined || !ticket.isParked) return;
    this.#options.queue.leave(ticket);
    this.#close(ticket, 'left');
  }

  admitted(ticket: Ticket): void {
    this.#passed = ticket.class.gate.role;
    this.#close(ticket, 'admitted');
    this.#ticket = ticket; // until it is settled
    this.#options.admitted();
  }

  refused(error: ErrorData): void {
    if (this.#ticket !== undefined) this.#close(this.#ticket, error.code);
    this.#options.refused(error);
  }

  #keep(ticket: Ticket, ahead: number, occupancy: { workers: number; busyByPrefillTokens: number; busyByKvBlocks: number }, role: WorkerRole): void {
    this.#first ??= ticket;
    if (!ticket.isParked) return; // admitted while it entered
    this.#ticket = ticket;
    this.#record = { role, reason: ahead > 0 ? 'backlog' : 'busy', ahead, ...occupancy, waitMs: undefined, outcome: 'waiting' };
    this.#options.recorded(this.#record);
  }

  #close(ticket: Ticket, outcome: string): void {
    this.#ticket = undefined;
    if (this.#record === undefined) return;
    this.#record.waitMs = this.#options.nowMs() - ticket.arrivedAtMs;
    this.#record.outcome = outcome;
  }
}
