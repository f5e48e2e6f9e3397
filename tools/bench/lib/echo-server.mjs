// The least a Node server can do: read the request, answer recorded bytes. argv: file with {contentType, osl1, stream} (base64).
import { readFileSync } from 'node:fs';
import http from 'node:http';

const recorded = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const answers = { osl1: Buffer.from(recorded.osl1, 'base64'), stream: Buffer.from(recorded.stream, 'base64') };
const STREAM = Buffer.from('"stream":true');

const server = http.createServer((request, response) => {
  const parts = [];
  request.on('data', (part) => parts.push(part));
  request.on('end', () => {
    const isStream = Buffer.concat(parts).includes(STREAM);
    const body = isStream ? answers.stream : answers.osl1;
    if (isStream) {
      // Chunked, as a stream is, but in one write: no server can do with less.
      response.writeHead(200, { 'content-type': 'text/event-stream', 'transfer-encoding': 'chunked' });
      response.end(body);
    } else {
      response.writeHead(200, { 'content-type': 'application/json', 'content-length': body.length });
      response.end(body);
    }
  });
});
server.listen(0, '127.0.0.1', () => process.send({ type: 'listening', port: server.address().port }));
process.on('disconnect', () => process.exit(0));
