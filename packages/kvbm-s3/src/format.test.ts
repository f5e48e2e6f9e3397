import { describe, expect, it } from 'vitest';
import { checkRecord, decodeChain, encodeChain, fingerprintBytes, RECORD_BYTES, writeRecord } from './format.ts';

const fields = { blockBytes: 4096, index: 3, count: 16, lo: -5, hi: 77, parentLo: 1, parentHi: -2, checksumLo: 8, checksumHi: -9 };
const fingerprint = fingerprintBytes('m', 'l');

describe('record', () => {
  it('is what docs/kvbm-s3.md says', () => {
    const record = writeRecord(fields, fingerprint);
    expect(record.length).toBe(RECORD_BYTES);
    expect(record.subarray(0, 40).toString('hex')).toBe('414b5642_0100_4000_00100000_0300_1000_fbffffff4d000000_01000000feffffff_08000000f7ffffff'.replaceAll('_', ''));
    expect(record.subarray(40, 56)).toEqual(Buffer.from(fingerprint));
    expect(checkRecord(record, -5, 77, 4096, fingerprint)).toBe('good');
  });
  it('tells damage in every byte from a whole record of something else', () => {
    const record = writeRecord(fields, fingerprint);
    for (let i = 0; i < RECORD_BYTES; i++) {
      for (const bit of [1, 128]) {
        record[i]! ^= bit;
        expect([i, checkRecord(record, -5, 77, 4096, fingerprint)]).toEqual([i, 'damaged']);
        record[i]! ^= bit;
      }
    }
    expect(checkRecord(record, -5, 78, 4096, fingerprint)).toBe('foreign');
    expect(checkRecord(record, -5, 77, 8192, fingerprint)).toBe('foreign');
    expect(checkRecord(record, -5, 77, 4096, fingerprintBytes('m', 'other'))).toBe('foreign');
    expect(fingerprintBytes('a', 'b\0c')).not.toEqual(fingerprintBytes('a\0b', 'd'));
  });
});

describe('chain in the metadata', () => {
  it('comes back, and is refused when anything is off', () => {
    const chain = Int32Array.of(1, -2, 3, -4);
    const text = encodeChain(chain);
    const bytes = 2 * (RECORD_BYTES + 4096);
    expect(decodeChain(text, bytes, 4096)).toEqual(chain);
    for (const [header, length] of [[undefined, bytes], ['', bytes], ['!!', bytes], [text.slice(0, 5), bytes], [text, bytes - 1], [text, 0], [text, Number.NaN]] as const) {
      expect(decodeChain(header, length, 4096)).toBeUndefined();
    }
  });
});
