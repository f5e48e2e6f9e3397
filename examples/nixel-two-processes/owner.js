import { createAgent, listenForMetadata } from '@armature/nixel';

const blockBytes = 65_536;
const agent = await createAgent({ name: 'owner' });
const kv = agent.register({ buffer: new ArrayBuffer(128 * blockBytes) });
for (let block = 0; block < 128; block++) kv.bytes.fill(block, block * blockBytes, (block + 1) * blockBytes);
agent.onNotification((peer, payload) => console.log(`${peer}: ${Buffer.from(payload)}`));
await listenForMetadata({ agent, port: 7300 });
console.log('128 blocks to read; Ctrl-C stops');
