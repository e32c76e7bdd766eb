"""A server on the `h2` package: HTTP/2 with prior knowledge and by Upgrade, answers with padding
and CONTINUATION. Usage: h2_peer.py PORT"""

import socket
import sys
import threading

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded


class Peer:
    def __init__(self, sock):
        self.sock, self.paths, self.bytes = sock, {}, {}
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))

    def answer(self, stream):
        path = self.paths.pop(stream)
        if path == "/large-head":
            fields = [(":status", "200")] + [(f"x-field-{n}", f"{n:05}" * 600) for n in range(12)]
            self.h2.send_headers(stream, fields)
            self.h2.send_data(stream, b"behind a large head", end_stream=True)
        elif path == "/padded":
            self.h2.send_headers(stream, [(":status", "200")])
            for pad in (0, 1, 255):
                self.h2.send_data(stream, b"padded " * 3, pad_length=pad)
            self.h2.send_data(stream, b"", end_stream=True, pad_length=9)
        else:
            text = f"{path}: {self.bytes.pop(stream, 0)} bytes\n".encode()
            self.h2.send_headers(stream, [(":status", "200"), ("content-length", str(len(text)))])
            self.h2.send_data(stream, text, end_stream=True)

    def start(self, data):
        if data.startswith(b"PRI"):
            self.h2.initiate_connection()
            return data
        head, _, rest = data.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines[1:])
        settings = next(line.split(": ", 1)[1] for line in lines if line.lower().startswith("http2-settings"))
        self.sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        self.h2.initiate_upgrade_connection(settings.encode())
        length = int(fields.get("content-length", 0))
        while len(rest) < length:
            rest += self.sock.recv(65536)
        self.paths[1], self.bytes[1] = lines[0].split(" ")[1], length
        self.answer(1)
        return rest[length:]

    def serve(self):
        data = b""
        while b"\r\n\r\n" not in data:
            data += self.sock.recv(65536)
        data = self.start(data)
        while True:
            self.sock.sendall(self.h2.data_to_send())
            for event in self.h2.receive_data(data) if data else ():
                if isinstance(event, RequestReceived):
                    self.paths[event.stream_id] = dict(event.headers)[":path"]
                elif isinstance(event, DataReceived):
                    self.bytes[event.stream_id] = self.bytes.get(event.stream_id, 0) + len(event.data)
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, StreamEnded):
                    self.answer(event.stream_id)
            self.sock.sendall(self.h2.data_to_send())
            data = self.sock.recv(65536)
            if not data:
                return self.sock.close()


def main():
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    while True:
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=Peer(sock).serve, daemon=True).start()


main()
