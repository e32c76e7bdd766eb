"""A forward proxy: requests in absolute form to their origin, CONNECT as a tunnel.

Usage: proxy.py PORT"""

import http.client
import select
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

HOP_BY_HOP = {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "te", "upgrade"}


class Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def forward(self):
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        origin = http.client.HTTPConnection(url.hostname, url.port or 80)
        target = url.path + ("?" + url.query if url.query else "")
        origin.putrequest(self.command, target or "/", skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in HOP_BY_HOP:
                origin.putheader(name, value)
        origin.putheader("Via", "1.1 proxy")
        origin.endheaders(body or None)
        answer = origin.getresponse()
        data = answer.read()
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in HOP_BY_HOP | {"content-length"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        origin.close()

    do_GET = do_POST = forward

    def do_CONNECT(self):
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port))) as origin:
            self.send_response_only(200, "Connection established")
            self.end_headers()
            self.wfile.flush()
            pair = {self.connection: origin, origin: self.connection}
            while pair:
                for ready in select.select(list(pair), [], [])[0]:
                    data = ready.recv(65536)
                    if not data:
                        self.close_connection = True
                        return
                    pair[ready].sendall(data)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Proxy).serve_forever()
