import { measureAll } from './lib/measure.mjs';

export const description = "vLLM's KV events: messages to our events (decode, map hashes, hash tokens), beside a plain msgpack decode of the same bytes in the same run";
export const packages = ['backend-vllm'];

const BLOCKS = 20_000;

/** Not measured: sockets, and what followers do with the events. One message stores `run` blocks on top of each other, the next one removes them, one event a block, as vLLM does. */
export async function run() {
  const { BatchReader, EngineBlocks } = await import('@armature/backend-vllm');
  const { Packr, Unpackr } = await import('msgpackr');
  const packr = new Packr({ useRecords: false, variableMapSize: true });
  const unpackr = new Unpackr({ useRecords: false, int64AsType: 'bigint' });
  const rows = [];
  for (const [blockSize, run] of [[16, 1], [16, 32], [32, 8], [64, 32]]) {
    const messages = storesAndRemovals(packr, blockSize, run);
    const blocks = messages.blocks;
    const reader = new BatchReader();
    let told = 0;
    const table = new EngineBlocks(blockSize, (event) => (told += event.type === 'stored' ? event.sequenceHashes.length / 2 : 0));
    const cost = measureAll(
      {
        own: () => {
          for (const payload of messages.payloads) {
            reader.read(payload, table);
            table.flush();
          }
        },
        plain: () => {
          for (const payload of messages.payloads) unpackr.unpack(payload);
        },
      },
      { rounds: 5, roundMs: 300 },
    );
    if (told === 0 || told % blocks !== 0 || table.rows !== 0) throw new Error(`not every block was told and removed: ${told} of ${blocks}, ${table.rows} left`);
    const name = `blocks of ${blockSize}, ${run} a message`;
    rows.push({ name: `${name}: stored and removed`, value: (blocks / cost.own) * 1e6, unit: 'blocks/s', target: 200_000, peer: (blocks / cost.plain) * 1e6 });
    rows.push({ name: `${name}: CPU of a plain msgpack decode to ours`, value: cost.plain / cost.own, unit: 'x' });
  }
  return rows;
}

function storesAndRemovals(packr, blockSize, run) {
  const payloads = [];
  let hash = 0xfedc_ba98_7654_3210n;
  let blocks = 0;
  let token = 1;
  while (blocks < BLOCKS / 10) {
    const hashes = Array.from({ length: run }, () => (hash = (hash * 6364136223846793005n + 1442695040888963407n) & 0xffff_ffff_ffff_ffffn) | 0x8000_0000_0000_0000n);
    const tokens = Array.from({ length: run * blockSize }, () => (token = (token * 48271) % 0x7fffffff) % 128_000);
    const more = { medium: 'GPU', group_idx: 0 };
    payloads.push(Buffer.from(packr.pack([1795328675.7, [{ type: 'BlockStored', block_hashes: hashes, parent_block_hash: null, token_ids: tokens, block_size: blockSize, lora_id: null, lora_name: null, extra_keys: hashes.map(() => null), kv_cache_spec_kind: 'full_attention', ...more }], 0])));
    payloads.push(Buffer.from(packr.pack([1795328676.7, hashes.map((gone) => ({ type: 'BlockRemoved', block_hashes: [gone], medium: 'GPU', group_idx: 0 })), 0])));
    blocks += run;
  }
  return { payloads, blocks };
}
