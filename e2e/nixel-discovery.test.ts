import { TransferStatus } from '@armature/contracts';
import type { Logger } from '@armature/contracts';
import { MemoryDiscovery, MsgpackCodec, SystemClock } from '@armature/core';
import { createAgent, descriptors, followPeers, METADATA_PREFIX, publishMetadata, TcpTransport } from '@armature/nixel';
import type { Agent } from '@armature/nixel';
import { afterEach, describe, expect, it } from 'vitest';

const clock = new SystemClock();
const warnings: string[] = [];
const log: Logger = { debug: () => undefined, info: () => undefined, warn: (message) => void warnings.push(message), error: () => undefined, child: () => log, isEnabled: () => false };
const closing: { close(): Promise<void> | void }[] = [];
afterEach(async () => {
  for (const each of closing.splice(0).reverse()) await each.close();
  warnings.length = 0;
});

async function agentOf(name: string): Promise<Agent> {
  const agent = await createAgent({ name, transports: [new TcpTransport({ clock, log })], clock, log });
  closing.push(agent);
  return agent;
}

describe('transfer metadata through discovery', () => {
  it('agents find each other, see new segments, forget those that leave, and take a restarted peer as another', async () => {
    const discovery = new MemoryDiscovery({ clock, log, encode: true, codec: new MsgpackCodec() });
    const decode = await agentOf('decode/0');
    const here = decode.register({ buffer: new ArrayBuffer(64) });
    const found: string[] = [];
    closing.push(await followPeers({ agent: decode, discovery, log, onPeer: (name) => found.push(name) }));
    closing.push(await publishMetadata({ agent: decode, discovery, clock, log }));

    const publishing = async (fill: number) => {
      const prefill = await agentOf('prefill/0');
      const published = await publishMetadata({ agent: prefill, discovery, clock, log });
      const segment = prefill.register({ buffer: new ArrayBuffer(64) });
      segment.bytes.fill(fill);
      // Registered after publishing: the entry is updated.
      await expect.poll(() => decode.peerSegmentBytes('prefill/0', segment.id)).toBe(64);
      return { prefill, published, segment };
    };
    const first = await publishing(3);
    const rows = (segment: number) => descriptors([{ segment, offset: 0, length: 64 }]);
    const handle = decode.prepare({ op: 'read', peer: 'prefill/0', local: rows(here.id), remote: rows(first.segment.id) });
    expect(await decode.run(handle)).toBe(TransferStatus.Done);
    expect(here.bytes[63]).toBe(3);

    first.prefill.deregister(first.segment.id);
    await expect.poll(() => decode.peerSegmentBytes('prefill/0', first.segment.id)).toBeUndefined();
    expect(await decode.run(handle)).toBe(TransferStatus.NotFound);

    await first.published.close();
    await expect.poll(() => decode.peers()).toEqual([]);
    await first.prefill.close();
    const again = await publishing(4);
    expect(again.segment.id).toBe(first.segment.id);
    // The same handle, the other life.
    expect(await decode.run(handle)).toBe(TransferStatus.Done);
    expect([here.bytes[63], found.includes('prefill/0'), warnings]).toEqual([4, true, []]);
  });

  it('rubbish under the prefix is logged and passed over; a second agent of one name is refused', async () => {
    const discovery = new MemoryDiscovery({ clock, log, encode: true, codec: new MsgpackCodec() });
    const agent = await agentOf('a');
    await discovery.register(`${METADATA_PREFIX}/x`, 5);
    await discovery.register(`${METADATA_PREFIX}/y`, { name: 'y', metadata: Uint8Array.of(1, 2, 3) });
    closing.push(await followPeers({ agent, discovery, log }));
    expect(warnings).toEqual(['entry in discovery is no transfer metadata', 'transfer metadata in discovery refused']);
    expect(agent.peers()).toEqual([]);
    closing.push(await publishMetadata({ agent, discovery, clock, log }));
    await expect(publishMetadata({ agent: await agentOf('a'), discovery, clock, log })).rejects.toMatchObject({ code: 'DISCOVERY_KEY_TAKEN' });
  });
});
