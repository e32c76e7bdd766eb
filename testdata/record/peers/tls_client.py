"""Calls over TLS with Python's ssl module, which lets OpenSSL be told what curl does not.

Usage: tls_client.py PORT KEYLOG [ciphers=LIST] [tls=1.2|1.3] [mac-then-encrypt] [connections=N] PATH...

Every connection after the first resumes the session of the one before."""

import http.client
import ssl
import sys

port, keylog, *words = sys.argv[1:]
options = dict(word.split("=", 1) for word in words if "=" in word and not word.startswith("/"))
paths = [word for word in words if word.startswith("/")]

context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
context.keylog_filename = keylog
version = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[options.get("tls", "1.2")]
context.minimum_version = context.maximum_version = version
if "ciphers" in options:
    context.set_ciphers(options["ciphers"] + ":@SECLEVEL=0")
if "mac-then-encrypt" in words:
    context.options |= 1 << 19  # SSL_OP_NO_ENCRYPT_THEN_MAC

session = None


class Connection(http.client.HTTPSConnection):
    def connect(self):
        http.client.HTTPConnection.connect(self)
        self.sock = context.wrap_socket(self.sock, server_hostname="localhost", session=session)


for number in range(int(options.get("connections", "1"))):
    connection = Connection("127.0.0.1", int(port))
    for path in paths:
        connection.request("GET", f"{path}?{number}")
        answer = connection.getresponse()
        body = answer.read()
        print(answer.status, len(body), connection.sock.cipher()[0], "resumed" if connection.sock.session_reused else "new")
    session = connection.sock.session
    connection.close()
