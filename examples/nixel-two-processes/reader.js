import { createAgent, exchangeMetadata, TransferStatus } from '@armature/nixel';

const layout = { pieces: 1, pieceBytes: 65_536, pieceStrideBytes: 0, blockStrideBytes: 65_536 };
const wanted = Int32Array.of(90, 7, 42);
const agent = await createAgent({ name: 'reader' });
const kv = agent.register({ buffer: new ArrayBuffer(3 * 65_536) });
const owner = await exchangeMetadata(agent, { port: 7300 });
const local = agent.prepareList({ segment: kv.id, layout, blocks: 3 });
const remote = agent.prepareList({ peer: owner, segment: 1, layout, blocks: 128 });
const read = agent.make({ op: 'read', local, localIndices: Int32Array.of(0, 1, 2), remote, remoteIndices: wanted });
const status = await agent.run(read, { notification: Buffer.from('3 blocks read'), deadlineMs: 2000 });
const isEqual = kv.bytes.every((byte, i) => byte === wanted[i >> 16]);
console.log({ isDone: status === TransferStatus.Done, bytes: agent.counters.readBytes, isEqual }, agent.counters.byTransport);
await agent.close();
