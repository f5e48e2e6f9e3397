import { CHECKSUM_VERSION, createVerifier, gcStores, inspectStore, listStores, verifyStore } from '@armature/kvbm';
import type { BlockChecksum, StoreHeader } from '@armature/kvbm';
import { ArmatureError } from '@armature/contracts';
import { hashToHex } from '@armature/tokens';

interface VerifiedStore {
  readonly store: string;
  readonly checked: number;
  readonly corrupt: number;
  readonly repaired: number;
}

/** Stores below a path, on disk. `running`: a process has it open, the numbers are of a moment ago. */
export async function storeStats(path: string): Promise<readonly { readonly store: string; readonly state: string; readonly running: boolean; readonly held: number; readonly of: number; readonly torn: number; readonly bytes: number }[]> {
  const reports = (await allStores(path)).map(({ report }) => report);
  return reports.map(({ folder, state, isRunning, heldBlocks, header, tornRecords, usedBytes }) => ({ store: folder, state, running: isRunning, held: heldBlocks, of: header?.slots ?? 0, torn: tornRecords, bytes: usedBytes }));
}

export async function storeBlocks(path: string, limit: number): Promise<readonly { readonly store: string; readonly hash: string; readonly parent: string | null }[]> {
  const rows: { store: string; hash: string; parent: string | null }[] = [];
  for (const { report, visit } of await allStores(path)) {
    visit((lo, hi, parentLo, parentHi) => {
      if (rows.length < limit) rows.push({ store: report.folder, hash: hashToHex(lo, hi), parent: parentLo === 0 && parentHi === 0 ? null : hashToHex(parentLo, parentHi) });
    });
  }
  return rows;
}

/** Reads every block of stopped stores; corrupt ones are struck out when `repairs`. Throws `KVBM_STORE_LOCKED` for a running one. */
export async function storeVerify(path: string, repairs: boolean): Promise<readonly VerifiedStore[]> {
  const rows: VerifiedStore[] = [];
  for (const { report } of await allStores(path)) {
    if (report.header === undefined) continue;
    const { checksumVersion } = report.header;
    if (checksumVersion !== CHECKSUM_VERSION) {
      const why = checksumVersion === 0 ? 'it was written with verify: false' : `its checksums are of version ${checksumVersion}, this program makes version ${CHECKSUM_VERSION}`;
      throw new ArmatureError('KV_STORE_UNCHECKABLE', `the blocks of "${report.folder}" cannot be checked: ${why}`, { hint: 'use the version of Armature that wrote it' });
    }
    const { checked, corrupt } = await verifyStore(report.folder, checksumsOf(report.header), { repairs });
    rows.push({ store: report.folder, checked, corrupt, repaired: repairs ? corrupt : 0 });
  }
  return rows;
}

export async function storeGc(path: string, isDryRun: boolean): Promise<readonly { readonly store: string; readonly action: string; readonly freedBytes: number; readonly torn: number }[]> {
  return (await gcStores(path, { isDryRun })).map(({ folder, action, freedBytes, tornRecords }) => ({ store: folder, action, freedBytes, torn: tornRecords }));
}

async function allStores(path: string): Promise<readonly Awaited<ReturnType<typeof inspectStore>>[]> {
  const folders = await listStores(path);
  return Promise.all((folders.length === 0 ? [path] : folders).map((folder) => inspectStore(folder)));
}

/** As the block manager wrote them. */
function checksumsOf({ blockBytes, pieceBytes, layout }: StoreHeader): BlockChecksum {
  const verifier = createVerifier({ pieceBytes, layoutFingerprint: layout });
  const blocks = Int32Array.of(0);
  const hashes = new Int32Array(2);
  return (bytes, lo, hi, out) => {
    hashes[0] = lo;
    hashes[1] = hi;
    verifier.checksums({ segment: 0, blocks: 1, blockStrideBytes: blockBytes, pieces: blockBytes / pieceBytes, pieceBytes, pieceStrideBytes: pieceBytes, bytes }, blocks, 1, hashes, out);
  };
}
