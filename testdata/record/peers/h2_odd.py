"""Both sides of one HTTP/2 connection, frame by frame: what libraries do not send, or not on demand.

Usage: h2_odd.py PORT

Frames of unknown types, settings and priorities among the rest; SETTINGS_HEADER_TABLE_SIZE changed
twice midway, with what the encoder must say then (RFC 7541 section 4.2); a WebSocket by extended
CONNECT (RFC 8441); a tunnel by CONNECT, with HTTP/1 in it; padding; CONTINUATION."""

import socket
import struct
import sys

DATA, HEADERS, PRIORITY, SETTINGS, PING, CONTINUATION = 0, 1, 2, 4, 6, 9
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 1, 1, 4, 8, 0x20
HEADER_TABLE_SIZE, ENABLE_CONNECT_PROTOCOL = 1, 8
GET, HTTP, OK = b"\x82", b"\x86", b"\x88"


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def text(value):
    return bytes([len(value)]) + value.encode()


def plain(name, value):
    """A field that enters no table."""
    return b"\x00" + text(name) + text(value)


def kept(name, value):
    """A field that enters the table."""
    return b"\x40" + text(name) + text(value)


def settings(**values):
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", globals()[name], value) for name, value in values.items()))


def get(stream, path, *fields):
    block = GET + HTTP + b"\x04" + text(path) + b"\x01" + text("shop") + b"".join(fields)
    return frame(HEADERS, END_STREAM | END_HEADERS, stream, block)


def connect(stream, *fields):
    block = plain(":method", "CONNECT") + b"\x01" + text("shop:80") + b"".join(fields)
    return frame(HEADERS, END_HEADERS, stream, block)


def answer(stream, body, block):
    return frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, END_STREAM, stream, body)


MASKED = b"\x81\x82\x00\x00\x00\x00hi"
WITHIN = b"GET /within HTTP/1.1\r\nHost: shop\r\n\r\n"
STEPS = [
    (0, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings(HEADER_TABLE_SIZE=4096)),
    (1, settings(ENABLE_CONNECT_PROTOCOL=1) + frame(SETTINGS, ACK, 0)),
    (0, frame(SETTINGS, ACK, 0) + frame(0xFA, 0xFF, 0, b"unknown")),
    # Unknown frames around and within an exchange.
    (0, get(1, "/first", kept("x-kept", "one"))),
    (0, frame(0xFB, 0, 1, b"about a stream")),
    (1, frame(0xFA, 0, 0) + answer(1, b"first", OK + kept("x-kept", "of the server"))),
    # No table for the server's fields any more.
    (0, settings(HEADER_TABLE_SIZE=0)),
    (1, frame(SETTINGS, ACK, 0)),
    (0, get(3, "/second", b"\xbe")),
    (1, answer(3, b"second", b"\x20" + OK + plain("x-plain", "no table"))),
    # And one again, of 256 bytes.
    (0, settings(HEADER_TABLE_SIZE=256)),
    (1, frame(SETTINGS, ACK, 0)),
    (0, get(5, "/third", b"\xbe")),
    (1, answer(5, b"third", b"\x3f\xe1\x01" + OK + kept("x-kept", "again"))),
    (0, get(7, "/fourth") + frame(PRIORITY, 0, 7, struct.pack(">IB", 5, 15))),
    (1, answer(7, b"fourth", OK + b"\xbe") + frame(PING, 0, 0, b"a ping! ")),
    (0, frame(PING, ACK, 0, b"a ping! ")),
    # A head in three frames, with padding and a priority; a body with padding.
    (
        0,
        frame(HEADERS, END_STREAM | PADDED | WITH_PRIORITY, 9, b"\x03" + struct.pack(">IB", 0, 7) + GET + HTTP + b"\0" * 3)
        + frame(CONTINUATION, 0, 9)
        + frame(CONTINUATION, END_HEADERS, 9, b"\x04" + text("/padded") + b"\x01" + text("shop")),
    ),
    (
        1,
        frame(HEADERS, END_HEADERS, 9, OK)
        + frame(DATA, PADDED, 9, b"\xff" + b"padded" + b"\0" * 255)
        + frame(DATA, PADDED | END_STREAM, 9, b"\x00"),
    ),
    # WebSocket.
    (
        0,
        connect(
            11, plain(":protocol", "websocket"), HTTP, b"\x04" + text("/chat"), plain("sec-websocket-version", "13")
        ),
    ),
    (1, frame(HEADERS, END_HEADERS, 11, OK)),
    (0, frame(DATA, 0, 11, MASKED)),
    (1, frame(DATA, 0, 11, b"\x81\x05hello")),
    (0, frame(DATA, END_STREAM, 11, b"\x88\x80\x00\x00\x00\x00")),
    (1, frame(DATA, END_STREAM, 11, b"\x88\x00")),
    # A tunnel, beside an exchange.
    (0, connect(13)),
    (1, frame(HEADERS, END_HEADERS, 13, OK)),
    (0, frame(DATA, 0, 13, WITHIN[:10]) + get(15, "/beside") + frame(DATA, 0, 13, WITHIN[10:])),
    (1, answer(15, b"beside", OK)),
    (1, frame(DATA, 0, 13, b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nwithin")),
    (0, frame(DATA, END_STREAM, 13)),
    (1, frame(DATA, END_STREAM, 13)),
]


def main():
    with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    sides = (client, server)
    for side, data in STEPS:
        sides[side].sendall(data)
        left = len(data)
        while left:
            left -= len(sides[1 - side].recv(left))
    client.close()
    server.close()


main()
