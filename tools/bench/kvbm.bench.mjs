export const description = 'the KV block manager: GB/s of host, disk and S3 beside their limits, look-up, restart, TTFT of a thrashing workload  [--only host,disk,s3,lookup,restart,serving,overhead] [--rounds N] [--folder PATH]';
export const packages = ['kvbm', 'kvbm-s3', 'cli'];

/** In the JSON only the GB/s rows carry `limit`. */
const PARTS = {
  host: async (options) => (await import('./lib/kvbm-host.mjs')).hostRows(options),
  disk: async (options) => (await import('./lib/kvbm-disk.mjs')).diskRows(options),
  s3: async (options) => (await import('./lib/kvbm-s3.mjs')).s3Rows(options),
  lookup: async (options) => (await import('./lib/kvbm-lookup.mjs')).lookupRows(options),
  restart: async (options) => (await import('./lib/kvbm-disk.mjs')).restartRows(options),
  overhead: async (options) => (await import('./lib/kvbm-host.mjs')).overheadRows(options),
  serving: async (options) => (await import('./lib/kvbm-serving.mjs')).servingRows(options),
};

export async function run({ options, root, log }) {
  const names = options.only?.split(',') ?? Object.keys(PARTS);
  const unknown = names.filter((name) => PARTS[name] === undefined);
  if (unknown.length > 0) throw new Error(`no part "${unknown.join('", "')}"; there are: ${Object.keys(PARTS).join(', ')}`);
  const rows = [];
  for (const name of names) rows.push(...(await PARTS[name]({ rounds: Number(options.rounds ?? 7), folder: options.folder ?? root, root, log })));
  return rows;
}
