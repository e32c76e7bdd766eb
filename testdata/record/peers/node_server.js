// An HTTP/1.1 server with what others cannot be made to send. Usage: node node_server.js PORT
'use strict';
const http = require('http');

const read = (request) => new Promise((resolve, reject) => {
  const parts = [];
  request.on('data', (part) => parts.push(part));
  request.on('end', () => resolve(Buffer.concat(parts)));
  request.on('error', reject);
});
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const server = http.createServer(async (request, response) => {
  const url = new URL(request.url, 'http://node');
  const body = await read(request);
  switch (url.pathname) {
    case '/chunked': {
      response.writeHead(200, { 'Content-Type': 'text/plain', Trailer: 'X-Digest, X-Count' });
      for (const word of ['one ', 'two '.repeat(40), 'three\n']) {
        response.write(word);
        await pause(5);
      }
      response.addTrailers({ 'X-Digest': 'sha-256=abc', 'X-Count': String(body.length) });
      response.end();
      break;
    }
    case '/hints':
      response.writeEarlyHints({ link: '</style.css>; rel=preload; as=style' });
      await pause(10);
      response.end('hinted\n');
      break;
    case '/slow':
      await pause(Number(url.searchParams.get('ms') ?? 20));
      response.setHeader('Content-Type', 'application/json');
      response.end(JSON.stringify({ path: request.url, slept: true }));
      break;
    default: {
      const answer = JSON.stringify({ method: request.method, url: request.url, bytes: body.length });
      response.writeHead(200, { 'Content-Type': 'application/json', 'Content-Length': answer.length });
      response.end(answer);
    }
  }
});
server.on('checkExpectation', (request, response) => {
  response.writeHead(417, { 'Content-Length': 0 });
  response.end();
});
server.listen(Number(process.argv[2]), '::');
