"""Drives `openssl s_client`: sends each piece, or waits for a text (`<text`) in what comes, or a while (`~`).

Usage: s_client.py PORT KEYLOG PIECE...      pieces are escaped as Python does; `K` and `k` on a line of their own are s_client's"""

import subprocess
import sys
import threading
import time

port, keylog, *pieces = sys.argv[1:]
argv = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-keylogfile", keylog, "-tls1_3"]
process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
came, grew = bytearray(), threading.Condition()


def read():
    while piece := process.stdout.read1(65536):
        with grew:
            came.extend(piece)
            grew.notify()


threading.Thread(target=read, daemon=True).start()
for piece in pieces:
    piece = piece.encode().decode("unicode_escape").encode("latin-1")
    if piece.startswith(b"<"):
        with grew:
            if not grew.wait_for(lambda: piece[1:] in came, 10):
                sys.exit(f"{piece[1:]} did not come: {bytes(came[-500:])}")
            del came[: came.index(piece[1:]) + len(piece) - 1]
    elif piece == b"~":
        # s_client takes a letter for a command only where a read of its input begins.
        time.sleep(0.3)
    else:
        process.stdin.write(piece)
        process.stdin.flush()
process.stdin.close()
process.wait(10)
