"""Answers every request on a connection with the bytes of its path's script, in order.

Usage: raw_server.py PORT

Only what real servers cannot be made to send."""

import socket
import struct
import sys
import threading
import time

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
SCRIPTS = {
    # Close-delimited: neither length nor chunks.
    "/until-close": [
        b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n",
        b"first half, ",
        20,
        b"second half\n",
        "fin",
    ],
    "/until-close-11": [HEAD + b"Connection: close\r\n\r\n", b"no length here\n", "fin"],
    # The server ends before the length that it promised.
    "/short": [HEAD + b"Content-Length: 1000\r\n\r\n", b"x" * 400, 20, "fin"],
    "/short-chunked": [
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
        b"64\r\n" + b"y" * 100 + b"\r\n",
        20,
        "fin",
    ],
    "/reset": [HEAD + b"Content-Length: 1000\r\n\r\n", b"z" * 300, 50, "rst"],
    "/silent": [20, "fin"],
    # Chunks with extensions, in upper and lower case, split in the middle of a size.
    "/chunk-extensions": [
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5;name=value\r\nhello\r\n1",
        5,
        b'A ;a="b;c"\r\n' + b"w" * 26 + b"\r\n0000\r\nX-Trailer: yes\r\n\r\n",
    ],
    # Field values over two lines, empty values, repeated names, bytes above 127.
    "/odd-fields": [
        HEAD
        + b"X-Folded: one\r\n  two\r\nX-Empty:\r\nX-Twice: 1\r\nX-Twice: 2\r\nX-Latin: caf\xe9\r\nContent-Length:   2  \r\n\r\nok"
    ],
    "/not-modified": [b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nContent-Length: 1234\r\n\r\n'],
    "/no-reason": [b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok"],
    "/many-interim": [
        b"HTTP/1.1 102 Processing\r\n\r\n",
        5,
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
        5,
        b"HTTP/1.1 103 Early Hints\r\nLink: </b>\r\n\r\n",
        5,
        HEAD + b"Content-Length: 5\r\n\r\nfinal",
    ],
}


def serve(sock):
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    pending = b""
    while True:
        while b"\r\n\r\n" not in pending:
            data = sock.recv(65536)
            if not data:
                return sock.close()
            pending += data
        head, _, pending = pending.partition(b"\r\n\r\n")
        path = head.split(b" ")[1].decode()
        for step in SCRIPTS[path]:
            if isinstance(step, int):
                time.sleep(step / 1000)
            elif step == "fin":
                sock.shutdown(socket.SHUT_RDWR)
                return sock.close()
            elif step == "rst":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return sock.close()
            else:
                sock.sendall(step)


def main():
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()


main()
