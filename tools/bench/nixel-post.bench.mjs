import { measureAll, seeded } from './lib/measure.mjs';

// What the agent itself costs: the transport behind it does nothing. Not measured: moving bytes, the transports' own work per descriptor.
export const description = 'the agent: posting 1,024 descriptors, by prepared handle and by index; transport that does nothing';
export const packages = ['contracts', 'nixel'];

const ROWS = 1024;
const BLOCKS = 8192;
const BLOCK_BYTES = 64;

const clock = { nowMs: () => performance.now(), wallMs: () => Date.now(), setTimer: (ms, call) => setTimeout(call, ms), clearTimer: (timer) => clearTimeout(timer), defer: (call) => void setImmediate(call) };
const log = { debug() {}, info() {}, warn() {}, error() {}, child: () => log, isEnabled: () => false };

/** Ends each post at once, or when `finish` is called. */
function nullTransport(name, isDeferred) {
  let waiting;
  const endpoint = {
    metadata: () => ({ at: name }),
    canReach: (metadata) => metadata.at === name,
    connect() {},
    disconnect() {},
    estimateMicros: () => 1,
    post(_plan, _notification, done) {
      if (isDeferred) waiting = done;
      else done(0);
      return 1;
    },
    cancel() {},
    notify: () => true,
    close: () => Promise.resolve(),
  };
  const supports = { sameProcess: true, sameHost: true, remoteHosts: true, notifications: true, kinds: ['dram'] };
  return { transport: { name, supports, unavailable: () => undefined, open: () => Promise.resolve(endpoint) }, finish: () => waiting(0) };
}

async function pairOver(createAgent, fake) {
  const [a, b] = [await createAgent({ name: 'a', transports: [fake.transport], clock, log }), await createAgent({ name: 'b', transports: [fake.transport], clock, log })];
  const register = (agent) => agent.register({ buffer: new ArrayBuffer(BLOCKS * BLOCK_BYTES) });
  const [here, there] = [register(a), register(b)];
  a.addPeer(b.metadata());
  return { a, b, here, there };
}

/** Blocks in an order without neighbours to join. */
function shuffledBlocks(random) {
  const all = Int32Array.from({ length: BLOCKS }, (_, i) => i);
  for (let i = BLOCKS - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [all[i], all[j]] = [all[j], all[i]];
  }
  return all.slice(0, ROWS);
}

/** Bytes of heap per call; the young generation does not fill within a round. */
function allocation(call) {
  const calls = 20_000;
  let least = Infinity;
  for (let round = 0; round < 5; round++) {
    const before = process.memoryUsage().heapUsed;
    for (let i = 0; i < calls; i++) call();
    least = Math.min(least, Math.max(0, process.memoryUsage().heapUsed - before) / calls);
  }
  return least;
}

export async function run() {
  const { blockDescriptors, createAgent } = await import('@armature/nixel');
  const random = seeded(5);
  const [localIndices, remoteIndices] = [shuffledBlocks(random), shuffledBlocks(random)];
  const layout = { blockStrideBytes: BLOCK_BYTES, pieces: 1, pieceBytes: BLOCK_BYTES - 8, pieceStrideBytes: 0 };
  const now = nullTransport('now', false);
  const { a, b, here, there } = await pairOver(createAgent, now);
  const columns = { local: blockDescriptors(here.id, layout, localIndices), remote: blockDescriptors(there.id, layout, remoteIndices) };
  const prepare = () => a.prepare({ op: 'read', peer: 'b', ...columns });
  const prepared = prepare();
  const local = a.prepareList({ segment: here.id, layout, blocks: BLOCKS });
  const remote = a.prepareList({ peer: 'b', segment: there.id, layout, blocks: BLOCKS });
  const make = () => a.make({ op: 'read', local, localIndices, remote, remoteIndices });
  const later = nullTransport('later', true);
  const slow = await pairOver(createAgent, later);
  const columnsLater = { local: blockDescriptors(slow.here.id, layout, localIndices), remote: blockDescriptors(slow.there.id, layout, remoteIndices) };
  const [held, posted] = [slow.a.prepare({ op: 'read', peer: 'b', ...columnsLater }), slow.a.prepare({ op: 'read', peer: 'b', ...columnsLater })];
  slow.a.post(held); // one more in flight: the deadline timer stays armed
  const repostLater = () => {
    slow.a.post(posted);
    later.finish();
  };
  const out = { segments: new Int32Array(2 * ROWS), offsets: new Float64Array(2 * ROWS), lengths: new Int32Array(2 * ROWS) };
  const cost = measureAll({
    makeAndPost: () => a.post(make()),
    prepareAndPost: () => a.post(prepare()),
    repost: () => a.post(prepared),
    repostLater,
    // The least it can cost here: the same rows written to columns that are there already.
    rows: () => {
      for (let i = 0; i < ROWS; i++) {
        out.segments[i] = 1;
        out.offsets[i] = localIndices[i] * BLOCK_BYTES;
        out.lengths[i] = layout.pieceBytes;
        out.segments[ROWS + i] = 1;
        out.offsets[ROWS + i] = remoteIndices[i] * BLOCK_BYTES;
        out.lengths[ROWS + i] = layout.pieceBytes;
      }
    },
  });
  const bytes = { repost: allocation(() => a.post(prepared)), repostLater: allocation(repostLater) };
  for (const agent of [slow.a, slow.b, a, b]) await agent.close();
  return [
    { name: 'nixel/post-1024: request by 1,024 indices of prepared lists, made and posted', value: cost.makeAndPost, unit: 'us', limit: cost.rows, target: 200 },
    { name: 'nixel/post-1024: whole list of 1,024 rows prepared (all checks) and posted', value: cost.prepareAndPost, unit: 'us', limit: cost.rows, target: 200 },
    { name: 'nixel/post-1024: prepared before, posted again', value: cost.repost, unit: 'us', target: 200 },
    { name: 'nixel/post-1024: posted again, ends later, others in flight', value: cost.repostLater, unit: 'us', target: 200 },
    { name: 'nixel/post-1024: heap per repost', value: bytes.repost, unit: 'B', target: 0 },
    { name: 'nixel/post-1024: heap per repost that ends later', value: bytes.repostLater, unit: 'B', target: 0 },
  ];
}
