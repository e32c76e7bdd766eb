"""Asks over IPv6 with extension headers before TCP.

Usage: extension_client.py PORT PATH...

The first request goes with destination options, the second with hop-by-hop options and those, and so
on in turn; each on a connection of its own."""

import socket
import sys

# A header of eight bytes whose options are padding (RFC 8200 section 4.2).
PADDING = bytes([0, 0, 1, 4, 0, 0, 0, 0])


def main():
    port = int(sys.argv[1])
    for number, path in enumerate(sys.argv[2:]):
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, PADDING)
            if number % 2:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_HOPOPTS, PADDING)
            sock.connect(("::1", port))
            head = f"GET {path} HTTP/1.1\r\nHost: [::1]:{port}\r\nConnection: close\r\n\r\n"
            sock.sendall(head.encode())
            while sock.recv(65536):
                pass


main()
