import { ArmatureError } from '@armature/contracts';
import type { Counter, Family, Gauge, Histogram, Metrics, MetricSpec } from '@armature/contracts';
import { collectDefaultMetrics, Registry } from 'prom-client';

/** Seconds, from 1 ms to a minute. */
const DEFAULT_BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60] as const;

interface Sample {
  readonly labels: Record<string, string | number>;
  readonly value: number;
  readonly metricName?: string;
}
interface Cell {
  samples(name: string, labels: Record<string, string>): Sample[];
}

/**
 * Prometheus metrics. prom-client holds the registry, the process metrics and the text format; the cells are our own, because a bound
 * prom-client child hashes its labels at every call (about 300 ns against 3 ns for a field of a held object).
 */
export class PrometheusMetrics implements Metrics {
  readonly #registry = new Registry();
  readonly #families = new Map<string, CellFamily<Cell>>();
  readonly #collectors = new Set<() => void>();

  constructor(options: { readonly defaultMetrics?: boolean } = {}) {
    if (options.defaultMetrics !== false) collectDefaultMetrics({ register: this.#registry });
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  counter(spec: MetricSpec): Family<Counter> {
    return this.#family(spec, 'counter', '', () => new CounterCell()) as CellFamily<CounterCell>;
  }

  gauge(spec: MetricSpec): Family<Gauge> {
    return this.#family(spec, 'gauge', '', () => new GaugeCell()) as CellFamily<GaugeCell>;
  }

  histogram(spec: MetricSpec & { readonly buckets?: readonly number[] }): Family<Histogram> {
    const buckets = spec.buckets ?? DEFAULT_BUCKETS;
    return this.#family(spec, 'histogram', buckets.join(), () => new HistogramCell(buckets)) as CellFamily<HistogramCell>;
  }

  onCollect(callback: () => void): () => void {
    this.#collectors.add(callback);
    return () => void this.#collectors.delete(callback);
  }

  /** The page that Prometheus scrapes. */
  async text(): Promise<string> {
    for (const collect of this.#collectors) collect();
    return this.#registry.metrics();
  }

  #family(spec: MetricSpec, type: string, shape: string, create: () => Cell): CellFamily<Cell> {
    const labelNames = spec.labelNames ?? [];
    const signature = `${type}(${labelNames.join()})[${shape}]`;
    const known = this.#families.get(spec.name);
    if (known !== undefined) {
      if (known.signature === signature) return known;
      throw new ArmatureError('METRIC_CONFLICT', `metric "${spec.name}" exists as ${known.signature} and is asked for as ${signature}`, {
        hint: 'one name has one type, one list of labels and one set of buckets',
      });
    }
    const family = new CellFamily(spec, type, signature, create);
    this.#registry.registerMetric(family as never);
    this.#families.set(spec.name, family);
    return family;
  }
}

/** What prom-client asks of a metric: name, help, type, and the samples at scrape time. */
class CellFamily<M extends Cell> implements Family<M> {
  readonly name: string;
  readonly help: string;
  readonly type: string;
  readonly aggregator = 'sum';
  readonly signature: string;
  readonly #labelNames: readonly string[];
  readonly #create: () => M;
  readonly #cells = new Map<string, { readonly cell: M; readonly labels: Record<string, string> }>();

  constructor(spec: MetricSpec, type: string, signature: string, create: () => M) {
    if (!/^[a-zA-Z_:][a-zA-Z0-9_:]*$/.test(spec.name)) {
      throw new ArmatureError('METRIC_NAME_INVALID', `"${spec.name}" is not a Prometheus metric name`, { hint: 'letters, digits and underscores, like armature_requests_total' });
    }
    this.name = spec.name;
    this.help = spec.help;
    this.type = type;
    this.signature = signature;
    this.#labelNames = spec.labelNames ?? [];
    this.#create = create;
    if (this.#labelNames.length === 0) this.with();
  }

  with(...labelValues: string[]): M {
    if (labelValues.length !== this.#labelNames.length) {
      throw new ArmatureError('METRIC_LABELS_INVALID', `metric "${this.name}" has labels (${this.#labelNames.join(', ')}), got ${labelValues.length} values`, {
        hint: 'pass one value per label, in the order of labelNames',
      });
    }
    const key = labelValues.join('\u0000');
    let found = this.#cells.get(key);
    if (found === undefined) {
      const labels: Record<string, string> = {};
      this.#labelNames.forEach((name, index) => void (labels[name] = labelValues[index]));
      found = { cell: this.#create(), labels };
      this.#cells.set(key, found);
    }
    return found.cell;
  }

  async get(): Promise<{ name: string; help: string; type: string; values: Sample[]; aggregator: string }> {
    const values: Sample[] = [];
    for (const { cell, labels } of this.#cells.values()) values.push(...cell.samples(this.name, labels));
    return { name: this.name, help: this.help, type: this.type, values, aggregator: this.aggregator };
  }

  reset(): void {
    this.#cells.clear();
  }
}

class CounterCell implements Counter, Cell {
  #value = 0;

  inc(by = 1): void {
    if (by > 0) this.#value += by;
  }

  samples(_name: string, labels: Record<string, string>): Sample[] {
    return [{ labels, value: this.#value }];
  }
}

class GaugeCell implements Gauge, Cell {
  #value = 0;

  set(value: number): void {
    this.#value = value;
  }

  add(by: number): void {
    this.#value += by;
  }

  samples(_name: string, labels: Record<string, string>): Sample[] {
    return [{ labels, value: this.#value }];
  }
}

class HistogramCell implements Histogram, Cell {
  readonly #bounds: Float64Array;
  readonly #counts: Float64Array;
  #sum = 0;
  #count = 0;

  constructor(buckets: readonly number[]) {
    this.#bounds = Float64Array.from(buckets).sort();
    this.#counts = new Float64Array(this.#bounds.length);
  }

  observe(value: number): void {
    if (value !== value) return;
    this.#sum += value;
    this.#count++;
    const bounds = this.#bounds;
    for (let i = 0; i < bounds.length; i++) {
      if (value <= bounds[i]) {
        this.#counts[i]++;
        return;
      }
    }
  }

  samples(name: string, labels: Record<string, string>): Sample[] {
    const samples: Sample[] = [];
    let total = 0;
    for (let i = 0; i < this.#bounds.length; i++) {
      total += this.#counts[i];
      samples.push({ labels: { ...labels, le: this.#bounds[i] }, value: total, metricName: `${name}_bucket` });
    }
    samples.push({ labels: { ...labels, le: '+Inf' }, value: this.#count, metricName: `${name}_bucket` });
    samples.push({ labels, value: this.#sum, metricName: `${name}_sum` });
    samples.push({ labels, value: this.#count, metricName: `${name}_count` });
    return samples;
  }
}
