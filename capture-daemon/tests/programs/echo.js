// An HTTP/1.1 server and a client of it, by node's own http, both of which check every byte. The same
// as echo.py beside it.
// Usage: node echo.js serve PORT | node echo.js visit PORT CONNECTIONS REQUESTS
'use strict';
const http = require('http');

function pattern(length, seed) {
  const period = Buffer.from(Array.from({ length: 251 }, (_, i) => (i * 31 + seed) % 251));
  return length ? Buffer.alloc(length, period) : Buffer.alloc(0);
}

function check(got, expected, what) {
  if (!got.equals(expected)) throw new Error(`${what}: other bytes than were sent`);
}

const read = (message) => new Promise((resolve, reject) => {
  const parts = [];
  message.on('data', (part) => parts.push(part));
  message.on('end', () => resolve(Buffer.concat(parts)));
  message.on('error', reject);
});

function serve(port) {
  let served = 0;
  const server = http.createServer(async (request, response) => {
    const [asked, answered] = request.url.slice(1).split('/').map(Number);
    check(await read(request), pattern(asked, 1), request.url);
    const body = pattern(answered, 2);
    if (answered % 2) {
      for (let at = 0; at < answered; at += 9999) response.write(body.subarray(at, at + 9999));
      response.end();
    } else {
      response.setHeader('Content-Length', answered);
      response.end(body);
    }
    served += 1;
  });
  server.listen(port, '127.0.0.1', () => console.log('listening', server.address().port));
  process.stdin.resume().on('end', () => {
    console.log('served', served);
    process.exit(0);
  });
}

async function visit(port, first, requests) {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  for (let number = first; number < first + requests; number += 1) {
    const [asked, answered] = [(number * number * 37) % 20000, (number * 977) % 70000];
    const response = await new Promise((resolve, reject) => {
      const options = { host: '127.0.0.1', port, path: `/${asked}/${answered}`, method: 'POST', agent };
      const request = http.request(options, resolve);
      request.on('error', reject);
      request.setHeader('Content-Length', asked);
      request.end(pattern(asked, 1));
    });
    if (response.statusCode !== 200) throw new Error(response.statusCode);
    check(await read(response), pattern(answered, 2), response.req.path);
  }
  agent.destroy();
}

const [, , role, port, connections, requests] = process.argv;
if (role === 'serve') {
  serve(Number(port));
} else {
  const [lines, each] = [Number(connections), Number(requests)];
  const visits = Array.from({ length: lines }, (_, n) => visit(Number(port), n * each, each));
  Promise.all(visits).then(() => console.log('answered', lines * each));
}
