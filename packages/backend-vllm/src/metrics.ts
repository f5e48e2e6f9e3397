/** What `/metrics` says. With data parallelism there is one sample per rank (label `engine`): numbers are summed, `mean` divides by the samples. */
export interface VllmMetrics {
  sum(name: string): number | undefined;
  mean(name: string): number | undefined;
  /** From `vllm:cache_config_info`; undefined when it is missing or not a number. */
  readonly blockSize: number | undefined;
  /** Of all engines; 0 = not reported. */
  readonly totalBlocks: number;
  /** Ranks that it tells of, also of those that are not asked for; 0 = not reported. */
  readonly engines: number;
}

const SAMPLE = /^([A-Za-z_:][\w:]*)(\{.*\})?\s+(\S+)/;
const ENGINE = /[{,]engine="([^"]*)"/;
const LABEL = /(\w+)="([^"]*)"/g;

/** Prometheus text; lines that are not samples are skipped. `engine`: only samples of that rank, and those of none. */
export function parseMetrics(text: string, engine?: number): VllmMetrics {
  const sums = new Map<string, { value: number; samples: number }>();
  const engines = new Set<string>();
  let blockSize: number | undefined;
  let totalBlocks = 0;
  for (const line of text.split('\n')) {
    const match = SAMPLE.exec(line);
    if (match === null) continue;
    const [, name = '', labels = '', value = ''] = match;
    const number = Number(value);
    if (Number.isNaN(number)) continue;
    const [, of] = ENGINE.exec(labels) ?? [];
    if (of !== undefined) engines.add(of);
    if (of !== undefined && engine !== undefined && Number(of) !== engine) continue;
    const sum = sums.get(name);
    if (sum === undefined) sums.set(name, { value: number, samples: 1 });
    else {
      sum.value += number;
      sum.samples++;
    }
    if (name !== 'vllm:cache_config_info') continue;
    const config = new Map(Array.from(labels.matchAll(LABEL), ([, key = '', label = '']) => [key, label]));
    blockSize ??= positive(config.get('block_size'));
    totalBlocks += positive(config.get('num_gpu_blocks')) ?? 0;
  }
  return {
    sum: (name) => sums.get(name)?.value,
    mean: (name) => {
      const sum = sums.get(name);
      return sum === undefined ? undefined : sum.value / sum.samples;
    },
    blockSize,
    totalBlocks,
    engines: engines.size,
  };
}

/** A label may say "None". */
function positive(label: string | undefined): number | undefined {
  const value = Number(label);
  return Number.isSafeInteger(value) && value > 0 ? value : undefined;
}
