"""Sends bytes as they are given and reads until the server closes.

Usage: raw_client.py PORT PIECE...

A piece is text with Python escapes; `@N` waits N milliseconds, `<N` waits until N answers were
seen (by their status lines), `!fin` half-closes, `!rst` resets and ends."""

import re
import socket
import struct
import sys
import threading
import time

STATUS = re.compile(rb"HTTP/1\.[01] [0-9]{3}")


class Reader(threading.Thread):
    def __init__(self, sock):
        super().__init__(daemon=True)
        self.sock, self.seen, self.changed = sock, b"", threading.Condition()
        self.start()

    def run(self):
        try:
            while data := self.sock.recv(65536):
                with self.changed:
                    self.seen += data
                    self.changed.notify_all()
        except OSError:
            pass

    def wait_for(self, answers):
        with self.changed:
            if not self.changed.wait_for(lambda: len(STATUS.findall(self.seen)) >= answers, 10):
                sys.exit("no answer in 10 s")


def main():
    sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    reader = Reader(sock)
    for piece in sys.argv[2:]:
        if piece.startswith("@"):
            time.sleep(int(piece[1:]) / 1000)
        elif piece.startswith("<"):
            reader.wait_for(int(piece[1:]))
        elif piece == "!fin":
            sock.shutdown(socket.SHUT_WR)
        elif piece == "!rst":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
            return
        else:
            sock.sendall(piece.encode().decode("unicode_escape").encode("latin-1"))
    reader.join(10)
    print(reader.seen.decode("latin-1"))


main()
