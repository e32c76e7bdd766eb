// Takes TLS off, for servers that speak h2c; logs the keys of every session.
// Usage: node tls_front.js PORT BACKEND KEYLOG (key.pem and cert.pem in the current folder)
'use strict';
const fs = require('fs');
const net = require('net');
const tls = require('tls');

const [port, backend, keylog] = process.argv.slice(2);
const server = tls.createServer({
  key: fs.readFileSync('key.pem'), cert: fs.readFileSync('cert.pem'), ALPNProtocols: ['h2'],
}, (client) => {
  const plain = net.connect(Number(backend), '127.0.0.1');
  client.pipe(plain).pipe(client);
  for (const socket of [client, plain]) socket.on('error', () => { client.destroy(); plain.destroy(); });
});
server.on('keylog', (line) => fs.appendFileSync(keylog, line));
server.listen(Number(port), '127.0.0.1');
