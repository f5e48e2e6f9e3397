import net from 'node:net';
import { ResponseParser } from './response-parser.mjs';

const STALL_MS = 30_000;

/**
 * Closed loop over `connections` kept-alive connections: each sends its next request when the last answer is complete.
 * `requests` are whole HTTP messages (Buffers), each sent once. Resolves with latencies in milliseconds and counts.
 */
export function closedLoop({ host, port, requests, connections }) {
  return new Promise((resolve, reject) => {
    const result = { ok: 0, failed: 0, statuses: {}, events: 0, bodyBytes: 0, firstByteMs: [], totalMs: [], wallMs: 0 };
    const begin = performance.now();
    let next = 0;
    let open = Math.min(connections, requests.length);
    let lastProgress = begin;
    const sockets = [];
    const watchdog = setInterval(() => {
      if (performance.now() - lastProgress < STALL_MS) return;
      clearInterval(watchdog);
      for (const socket of sockets) socket.destroy();
      reject(new Error(`no answer for ${STALL_MS} ms after ${result.ok + result.failed} of ${requests.length} requests`));
    }, 1000);
    const done = () => {
      if (--open > 0) return;
      clearInterval(watchdog);
      result.wallMs = performance.now() - begin;
      resolve(result);
    };
    for (let c = 0; c < connections && c < requests.length; c++) {
      const socket = net.connect({ host, port, noDelay: true });
      sockets.push(socket);
      let sentAt = 0;
      let finished = false;
      const end = () => {
        if (!finished) {
          finished = true;
          socket.destroy();
          done();
        }
      };
      const send = () => {
        if (next >= requests.length) return end();
        sentAt = performance.now();
        socket.write(requests[next++]);
      };
      const parser = new ResponseParser({
        onFirstByte: () => result.firstByteMs.push(performance.now() - sentAt),
        onResponse: ({ status, events, bodyBytes }) => {
          lastProgress = performance.now();
          result.totalMs.push(lastProgress - sentAt);
          result.statuses[status] = (result.statuses[status] ?? 0) + 1;
          result.events += events;
          result.bodyBytes += bodyBytes;
          if (status === 200) result.ok++;
          else result.failed++;
          send();
        },
      });
      socket.on('connect', send);
      socket.on('data', (data) => parser.push(data));
      socket.on('error', () => {
        result.failed++;
        end();
      });
      socket.on('close', end);
    }
  });
}

/** One request on a fresh connection; resolves with `{status, head, body}`. */
export function once({ host, port, request }) {
  return new Promise((resolve, reject) => {
    const socket = net.connect({ host, port, noDelay: true }, () => socket.write(request));
    const parser = new ResponseParser({
      keepBody: true,
      onFirstByte: () => {},
      onResponse: ({ status, head, body }) => {
        socket.destroy();
        resolve({ status, head, body: Buffer.concat(body) });
      },
    });
    socket.setTimeout(STALL_MS, () => socket.destroy(new Error(`no answer from ${host}:${port} within ${STALL_MS} ms`)));
    socket.on('data', (data) => parser.push(data));
    socket.on('error', reject);
  });
}

export function percentile(values, fraction) {
  const sorted = Float64Array.from(values).sort();
  return sorted.length === 0 ? 0 : sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * fraction))];
}
