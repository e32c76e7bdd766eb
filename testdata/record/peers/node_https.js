// HTTPS between Node and Node: kept-alive connections, chunked answers, a session that is resumed.
// Usage: node node_https.js serve PORT | node --tls-keylog=FILE node_https.js visit PORT
'use strict';
const fs = require('fs');
const https = require('https');

const [role, port] = process.argv.slice(2);
if (role === 'serve') {
  const options = { key: fs.readFileSync('key.pem'), cert: fs.readFileSync('cert.pem') };
  https.createServer(options, (request, response) => {
    let len = 0;
    request.on('data', (data) => { len += data.length; });
    request.on('end', () => {
      response.write(`${request.method} ${request.url} `);
      setTimeout(() => response.end(`with ${len} bytes\n`), 5);
    });
  }).listen(Number(port), '127.0.0.1');
} else {
  const ask = (agent, path, body) => new Promise((resolve, reject) => {
    const request = https.request({
      agent, host: '127.0.0.1', port: Number(port), path, method: body ? 'PUT' : 'GET', rejectUnauthorized: false,
    }, (response) => {
      response.resume();
      response.on('end', () => { console.log(response.statusCode, path); resolve(); });
    });
    request.on('error', reject);
    request.end(body);
  });
  (async () => {
    const agent = new https.Agent({ keepAlive: true, maxSockets: 1 });
    await ask(agent, '/first');
    await ask(agent, '/upload', 'x'.repeat(40000));
    agent.destroy();
    const again = new https.Agent({ keepAlive: true, maxSockets: 1, maxVersion: 'TLSv1.2' });
    await ask(again, '/old');
    await ask(again, '/old/again', 'y'.repeat(10));
    again.destroy();
  })();
}
