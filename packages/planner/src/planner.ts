import { ArmatureError } from '@armature/contracts';
import type { Clock, Discovery, EventPlane, Health, Logger, Metrics, Objective, PlannedPool, PlannerInput, PlannerObservation, PlannerPolicy, PlannerProposal, ScalingConnector, Timer } from '@armature/contracts';
import { Constraints } from './constrain/constraints.ts';
import type { ConstrainedPlan, ConstraintConfig } from './constrain/constraints.ts';
import { RoleMoves } from './execute/moves.ts';
import type { RoleMover, ThresholdControl } from './execute/moves.ts';
import { firstOrder, Orders } from './execute/orders.ts';
import { OrderProgress } from './execute/progress.ts';
import { PlannerMetrics } from './explain/planner-metrics.ts';
import { TickLog } from './explain/tick-log.ts';
import type { TickRecord } from './explain/tick-record.ts';
import { recordOf } from './explain/tick-of.ts';
import { Observer } from './observe/observer.ts';
import type { Seen } from './observe/observer.ts';
import { Forecaster } from './predict/forecaster.ts';
import { stateOf } from './policies/optimize/optimize-policy.ts';
import type { PredictorConfig } from './predict/forecaster.ts';

/** A pool as planned, with the workers that the first order of all asks for. */
export type InitialPool = PlannedPool & { readonly replicas: number };

export interface PlannerConfig {
  readonly intervalMs: number;
  /** How far the forecast reaches. */
  readonly horizonMs: number;
  readonly objective: Objective;
  readonly predictor: PredictorConfig;
  readonly constraints: ConstraintConfig;
  /** Longest wait for an answer of the connector. */
  readonly connectorDeadlineMs: number;
  /** Ticks that are kept for explanation. */
  readonly ticks: number;
  readonly pools: readonly InitialPool[];
}

export interface PlannerOptions {
  readonly model: string;
  readonly config: PlannerConfig;
  readonly policy: PlannerPolicy;
  readonly connector: ScalingConnector;
  /** Orders are not carried out: each plan begins with the workers that are there. */
  readonly isDry?: boolean;
  /** Left out: roles are not changed live. */
  readonly roles?: RoleMover;
  /** Left out: the threshold is not adjusted. */
  readonly threshold?: ThresholdControl;
  readonly discovery: Discovery;
  readonly events: EventPlane;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly health?: Health;
}

/**
 * Plans the workers of one model: observe → predict → propose → constrain → execute, once per interval; every tick is recorded. Policy and connector are
 * started and closed by whoever made them.
 */
export class Planner {
  readonly model: string;
  readonly ticks: TickLog;
  readonly #options: PlannerOptions;
  readonly #observer: Observer;
  readonly #forecaster: Forecaster;
  readonly #constraints: Constraints;
  readonly #orders: Orders;
  readonly #progress: OrderProgress;
  readonly #moves: RoleMoves;
  readonly #metrics: PlannerMetrics;
  #timer: Timer | undefined;
  #running: Promise<unknown> | undefined;
  #isReady: boolean;
  #isClosed: boolean;

  constructor(options: PlannerOptions) {
    const { model, config, connector, clock, log, metrics, events, discovery } = options;
    this.model = model;
    this.ticks = new TickLog(config.ticks);
    this.#options = options;
    const pools = config.pools.map(({ replicas: _first, ...pool }): PlannedPool => pool);
    this.#observer = new Observer({ model, pools, quantile: config.objective.quantile, events, discovery, clock });
    this.#forecaster = new Forecaster(config.predictor, config);
    this.#constraints = new Constraints(config.constraints);
    this.#orders = new Orders({ model, connector, clock, log, deadlineMs: config.connectorDeadlineMs });
    this.#progress = new OrderProgress();
    this.#moves = new RoleMoves({ model, pools, mover: options.roles, log });
    this.#metrics = new PlannerMetrics(metrics, model);
    this.#timer = undefined;
    this.#running = undefined;
    this.#isReady = false;
    this.#isClosed = false;
  }

  /** Goes on from the order in force; without one, orders the workers that are there or are configured. Then ticks. */
  async start(): Promise<void> {
    await this.open();
    this.#schedule(this.#options.config.intervalMs);
  }

  /** No order is given after it; the running tick ends first. The order in force stays. */
  async close(): Promise<void> {
    this.#isClosed = true;
    if (this.#timer !== undefined) this.#options.clock.clearTimer(this.#timer);
    await this.#running;
    this.#observer.close();
    this.#options.health?.remove(`planner ${this.model}`);
  }

  /** One tick now; for those who drive the planner themselves instead of `start`ing its timer. Call `open` first. */
  async tick(): Promise<TickRecord> {
    if (!this.#isReady) await this.#begin();
    else await this.#orders.recover();
    const seen = this.#look();
    this.ticks.settle(seen.observation);
    const { observation } = seen;
    const input: PlannerInput = { observation, forecast: this.#forecaster.forecast(observation), objective: this.#options.config.objective };
    const status = this.#orders.status();
    const progress = this.#progress.look(observation.pools, observation.atMs, status);
    const proposal = this.#propose(input);
    const plan = this.#constraints.constrain(proposal.state, input, { isBlind: seen.isBlind, stuck: progress.stuck });
    const roleProblem = this.#moves.takeProblem();
    const executed = await this.#execute(plan, observation);
    const problems = [...observation.problems, ...progress.problems, ...said(roleProblem), ...said(this.#orders.problem)];
    const record = recordOf({ seen, input, proposal, plan, problems, wallMs: this.#options.clock.wallMs(), execution: { ...executed, revision: this.#orders.inForce?.revision ?? 0, status } });
    this.ticks.add(record);
    this.#metrics.tick(record, this.#orders.failures);
    this.#tell(record);
    return record;
  }

  /** Follows reports and workers without a timer: for those who call `tick` themselves. */
  async open(): Promise<void> {
    await this.#observer.start();
    await this.#begin();
  }

  async #begin(): Promise<void> {
    const { config, isDry } = this.#options;
    await this.#orders.recover();
    if (!this.#orders.isKnown) return;
    if (this.#orders.inForce === undefined && isDry !== true) {
      const first = firstOrder(config.pools, this.#observer.fleet.counts());
      if ((await this.#orders.give(first)) === 'taken') for (const [pool, count] of Object.entries(first)) this.#observer.ordered(pool, count - (this.#observer.fleet.counts().get(pool) ?? 0));
    }
    this.#isReady = this.#orders.inForce !== undefined || isDry === true;
    this.#constraints.begin(Object.fromEntries(this.#desired()));
  }

  /** In force; as long as that is not known, or nothing carries orders out: what there is. */
  #desired(): ReadonlyMap<string, number> {
    const isOrdered = this.#orders.inForce !== undefined && this.#options.isDry !== true;
    return isOrdered ? this.#orders.desired : this.#observer.fleet.counts();
  }

  #look(): Seen {
    return this.#observer.look(this.#desired(), this.#options.threshold?.current());
  }

  /** A policy that throws holds. */
  #propose(input: PlannerInput): PlannerProposal {
    try {
      return this.#options.policy.propose(input);
    } catch (error) {
      const { code, message } = ArmatureError.from(error, 'PLANNER_POLICY_FAILED');
      this.#options.log.error('planner policy failed; nothing changes', { model: this.model, code, reason: message });
      const nothing = { ttftMs: NaN, itlMs: NaN, attainment: NaN, goodputPerSecond: NaN, gpus: NaN, costPerHour: NaN };
      return { state: stateOf(input.observation), outcome: nothing, reason: `the policy failed: ${message} (${code})`, action: 'hold_policy_failed', candidates: [] };
    }
  }

  async #execute({ state }: ConstrainedPlan, observation: PlannerObservation): Promise<{ readonly order: 'unchanged' | 'taken' | 'failed'; readonly roleChanges: readonly string[] }> {
    if (this.#isClosed) return { order: 'unchanged', roleChanges: [] };
    if (!this.#isReady) return { order: 'failed', roleChanges: [] };
    const order = await this.#orders.give(state.replicas);
    if (order === 'taken') {
      this.#constraints.ordered(state, observation);
      for (const { pool, desired } of observation.pools) this.#observer.ordered(pool, state.replicas[pool] - desired);
    }
    const { threshold, isDry } = this.#options;
    if (isDry === true || this.#isClosed) return { order, roleChanges: [] };
    if (state.thresholdTokens !== undefined && state.thresholdTokens !== threshold?.current()) threshold?.set(state.thresholdTokens);
    return { order, roleChanges: this.#moves.begin(state.lent, this.#observer.fleet) };
  }

  #tell({ tick, proposal, bound, decision, problems, execution }: TickRecord): void {
    const { log, health } = this.#options;
    const isNews = execution.order !== 'unchanged' || problems.length > 0 || decision.unreachable !== undefined;
    log[isNews ? 'info' : 'debug']('planned', { model: this.model, tick, action: proposal.action, reason: proposal.reason, replicas: decision.state.replicas, order: execution.order, bound: bound.map(({ name }) => name), ...(problems.length === 0 ? {} : { problems }) });
    const trouble = [...problems.filter((problem) => problem.startsWith('stuck')), ...said(this.#orders.problem), ...said(decision.unreachable)];
    health?.set(`planner ${this.model}`, trouble.length > 0 ? 'degraded' : 'ready', ...(trouble.length > 0 ? [trouble.join('; ')] : []));
  }

  /** Ticks keep their beat; one that took longer than an interval is followed at once by the next. */
  #schedule(delayMs: number): void {
    const { clock, config, log } = this.#options;
    if (this.#isClosed) return;
    this.#timer = clock.setTimer(delayMs, () => {
      const beganMs = clock.nowMs();
      this.#running = this.tick()
        .catch((error: unknown) => log.error('a tick of the planner failed', { model: this.model, error: String(error) }))
        .then(() => this.#schedule(Math.max(0, config.intervalMs - (clock.nowMs() - beganMs))));
    });
  }
}

function said(problem: string | undefined): string[] {
  return problem === undefined ? [] : [problem];
}
