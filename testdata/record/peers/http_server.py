"""Python's own http.server, as HTTP/1.0 and HTTP/1.1. Usage: http_server.py PORT HTTP/1.0|HTTP/1.1"""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        if "length" in self.path or self.protocol_version == "HTTP/1.1":
            self.send_header("Content-Length", "12")
        self.end_headers()
        self.wfile.write(b"hello ")
        self.wfile.write(b"there\n")

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = b"got %d bytes of %s\n" % (len(body), self.headers.get("Content-Type", "?").encode())
        self.send_response(201)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def do_PUT(self):
        while size := int(self.rfile.readline(), 16):
            self.rfile.read(size + 2)
        self.rfile.readline()
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_DELETE(self):
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


Handler.protocol_version = sys.argv[2]
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
