"""A gRPC service and its users: calls with small protobuf messages (written by hand, no generated code).

Usage: grpc_shop.py serve      prints `listening on http://127.0.0.1:PORT`
       grpc_shop.py visit PORT CALLS"""

import random
import signal
import sys
import threading
from concurrent import futures

import grpc

SERVICE = "shop.v1.Booking"
CLIENTS = 8


def varint(number):
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def text(field, value):
    value = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(value)) + value


def number(field, value):
    return varint(field << 3) + varint(value)


class Handlers(grpc.GenericRpcHandler):
    def __init__(self):
        self.dice = random.Random(7)

    def service(self, details):
        method = details.method.rsplit("/", 1)[1]
        return grpc.unary_unary_rpc_method_handler(
            {"ListSeats": self.list_seats, "Reserve": self.reserve, "Pay": self.pay}[method]
        )

    def list_seats(self, request, context):
        seats = range(self.dice.randrange(40))
        return b"".join(
            text(1, number(1, seat) + text(2, f"row {seat // 10}") + number(3, self.dice.choice((4500, 6900, 9900))))
            for seat in seats
        )

    def reserve(self, request, context):
        if self.dice.random() < 0.1:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, f"seat {self.dice.randrange(300)} is taken")
        return text(1, f"{self.dice.getrandbits(128):032x}") + number(2, 300)

    def pay(self, request, context):
        return number(1, self.dice.randrange(1 << 40)) + text(2, "PAID")


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(CLIENTS), handlers=(Handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    # A shell that puts the benchmark into the background has it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print(f"listening on http://127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


def visit(port, calls, seed):
    dice = random.Random(seed)
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=(("grpc.use_local_subchannel_pool", 1),)) as channel:
        call = {name: channel.unary_unary(f"/{SERVICE}/{name}") for name in ("ListSeats", "Reserve", "Pay")}
        for _ in range(calls // 3):
            user = dice.randrange(500)
            token = random.Random(user).getrandbits(256)
            metadata = (("authorization", f"Bearer {token:064x}"), ("x-request-id", f"{dice.getrandbits(64):016x}"))
            date = text(1, f"2026-12-{dice.randrange(1, 29):02}")
            try:
                call["ListSeats"](date, metadata=metadata)
                held = call["Reserve"](date + number(2, dice.randrange(300)), metadata=metadata)
                call["Pay"](held + number(3, 6900), metadata=metadata)
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.ALREADY_EXISTS:
                    raise


if sys.argv[1] == "serve":
    serve()
else:
    port, calls = map(int, sys.argv[2:])
    crowd = [threading.Thread(target=visit, args=(port, calls // CLIENTS, seed)) for seed in range(CLIENTS)]
    for user in crowd:
        user.start()
    for user in crowd:
        user.join()
