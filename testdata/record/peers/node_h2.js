// An HTTP/2 server without TLS and a client of it.
// Usage: node node_h2.js serve PORT | node node_h2.js visit PORT
'use strict';
const http2 = require('http2');

const [, , role, port] = process.argv;
const { NGHTTP2_CANCEL, NGHTTP2_REFUSED_STREAM } = http2.constants;

function serve() {
  const server = http2.createServer();
  server.on('stream', (stream, headers) => {
    stream.on('error', () => {});
    const url = new URL(headers[':path'], 'http://node');
    switch (url.pathname) {
      case '/refuse':
        stream.close(NGHTTP2_REFUSED_STREAM);
        break;
      case '/break':
        stream.respond({ ':status': 200, 'content-type': 'text/plain' });
        stream.write('half of what was prom');
        setTimeout(() => stream.destroy(new Error('broken')), 20);
        break;
      case '/endless':
        stream.respond({ ':status': 200, 'content-type': 'text/plain' });
        stream.write('x'.repeat(5000));
        break;
      case '/hints':
        stream.additionalHeaders({ ':status': 103, link: '</a.css>; rel=preload' });
        setTimeout(() => {
          stream.respond({ ':status': 200 });
          stream.end('hinted\n');
        }, 10);
        break;
      default: {
        let bytes = 0;
        stream.on('data', (part) => { bytes += part.length; });
        stream.on('end', () => {
          stream.respond({ ':status': 200, 'content-type': 'application/json' }, { waitForTrailers: true });
          stream.on('wantTrailers', () => stream.sendTrailers({ 'x-bytes': String(bytes) }));
          stream.end(JSON.stringify({ path: headers[':path'], bytes }));
        });
        stream.resume();
      }
    }
  });
  server.listen(Number(port), '::');
}

function visit() {
  const session = http2.connect(`http://127.0.0.1:${port}`);
  const ask = (headers, body, cancelAfter) => new Promise((resolve) => {
    const stream = session.request(headers, { endStream: body === undefined });
    let bytes = 0;
    let status;
    stream.on('response', (fields) => { status = fields[':status']; });
    stream.on('data', (part) => {
      bytes += part.length;
      if (cancelAfter !== undefined && bytes >= cancelAfter) stream.close(NGHTTP2_CANCEL);
    });
    stream.on('error', () => {});
    stream.on('close', () => { console.log(headers[':path'], status, bytes, stream.rstCode); resolve(); });
    if (body !== undefined) stream.end(body);
  });
  session.on('connect', async () => {
    await Promise.all([
      ask({ ':path': '/refuse' }),
      ask({ ':path': '/break' }),
      ask({ ':path': '/endless' }, undefined, 5000),
      ask({ ':path': '/hints' }),
      ask({ ':path': '/echo', ':method': 'POST', 'content-type': 'text/plain' }, 'hello '.repeat(50)),
    ]);
    session.close();
  });
}

(role === 'serve' ? serve : visit)();
