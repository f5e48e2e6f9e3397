/** MessagePack as msgspec writes it, as far as vLLM's events need it. */
export function encode(value: unknown): Buffer {
  const parts: Buffer[] = [];
  write(value, parts);
  return Buffer.concat(parts);
}

function write(value: unknown, out: Buffer[]): void {
  if (value === null || value === undefined) out.push(Buffer.of(0xc0));
  else if (typeof value === 'bigint') {
    const bytes = Buffer.alloc(9, 0xcf);
    bytes.writeBigUInt64BE(value, 1);
    out.push(bytes);
  } else if (typeof value === 'number' && Number.isInteger(value)) out.push(integer(value));
  else if (typeof value === 'number') {
    const bytes = Buffer.alloc(9, 0xcb);
    bytes.writeDoubleBE(value, 1);
    out.push(bytes);
  } else if (typeof value === 'string') out.push(Buffer.of(0xd9, Buffer.byteLength(value)), Buffer.from(value));
  else if (Array.isArray(value)) {
    out.push(Buffer.of(0xdc, value.length >> 8, value.length & 0xff));
    for (const item of value) write(item, out);
  } else {
    const entries = Object.entries(value as object);
    out.push(Buffer.of(0x80 | entries.length));
    for (const [key, item] of entries) {
      write(key, out);
      write(item, out);
    }
  }
}

function integer(value: number): Buffer {
  if (value >= 0 && value < 128) return Buffer.of(value);
  if (value < 0) return Buffer.of(0xd2, (value >> 24) & 0xff, (value >> 16) & 0xff, (value >> 8) & 0xff, value & 0xff);
  if (value < 65_536) return Buffer.of(0xcd, value >> 8, value & 0xff);
  return Buffer.of(0xce, value >>> 24, (value >> 16) & 0xff, (value >> 8) & 0xff, value & 0xff);
}

export function batch(time: number, ...events: object[]): Buffer {
  return encode([time + 0.5, events, 0]);
}

/** A `BlockStored` of vLLM 0.32: engine hashes `hashes` on top of `parent`. */
export function stored(hashes: readonly bigint[], parent: bigint | null, tokenIds: readonly number[], more: object = {}): object {
  return { type: 'BlockStored', block_hashes: hashes, parent_block_hash: parent, token_ids: tokenIds, block_size: tokenIds.length / hashes.length, lora_id: null, medium: 'GPU', lora_name: null, group_idx: 0, ...more };
}

export function removed(hashes: readonly bigint[], more: object = {}): object {
  return { type: 'BlockRemoved', block_hashes: hashes, medium: 'GPU', group_idx: 0, ...more };
}
