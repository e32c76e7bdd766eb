// A client that sends chunked bodies with trailers, two of them on one connection.
// Usage: node node_client.js PORT
'use strict';
const http = require('http');

const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
const ask = (path) => new Promise((resolve, reject) => {
  const request = http.request({
    agent, host: '127.0.0.1', port: Number(process.argv[2]), method: 'POST', path,
    headers: { 'Content-Type': 'text/plain', Trailer: 'X-Checksum', 'Transfer-Encoding': 'chunked' },
  }, (response) => {
    response.resume();
    response.on('end', () => { console.log(response.statusCode, response.trailers); resolve(); });
  });
  request.on('error', reject);
  request.write('alpha ');
  setTimeout(() => {
    request.write('beta '.repeat(30));
    request.addTrailers({ 'X-Checksum': '1234' });
    request.end('gamma\n');
  }, 10);
});
(async () => {
  await ask('/chunked?first');
  await ask('/chunked?second');
  agent.destroy();
})();
