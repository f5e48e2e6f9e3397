// The least a hop can cost here: passes bytes on and looks at none. Prints its port. usage: pipe.mjs UPSTREAM_URL
import { Agent, createServer, request } from 'node:http';

const upstream = new URL(process.argv[2]);
const agent = new Agent({ keepAlive: true });
const server = createServer((incoming, answer) => {
  const onward = request({ host: upstream.hostname, port: upstream.port, agent, path: incoming.url, method: incoming.method, headers: incoming.headers }, (response) => {
    answer.writeHead(response.statusCode, response.headers);
    response.pipe(answer);
  });
  onward.once('error', () => answer.destroy());
  incoming.pipe(onward);
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
