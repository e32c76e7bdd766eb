"""gRPC's four kinds of call with messages of protobuf, with and without compression.

Usage: grpc_kinds.py serve PORT | grpc_kinds.py visit PORT"""

import sys
from concurrent import futures

import grpc

role, port = sys.argv[1:]
SERVICE = "shop.Seats"


def varint(number):
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def seat(number, name):
    """message Seat { uint32 number = 1; string name = 2; Seat beside = 3; }"""
    text = name.encode()
    inner = b"\x08" + varint(number + 1)
    return b"\x08" + varint(number) + b"\x12" + varint(len(text)) + text + b"\x1a" + varint(len(inner)) + inner


class Handlers(grpc.GenericRpcHandler):
    def service(self, details):
        return {
            f"/{SERVICE}/Get": grpc.unary_unary_rpc_method_handler(self.get),
            f"/{SERVICE}/List": grpc.unary_stream_rpc_method_handler(self.list),
            f"/{SERVICE}/Book": grpc.stream_unary_rpc_method_handler(self.book),
            f"/{SERVICE}/Swap": grpc.stream_stream_rpc_method_handler(self.swap),
        }.get(details.method)

    def get(self, request, context):
        return seat(300, "stalls, row 7 " * 20)

    def list(self, request, context):
        for number in range(4):
            yield seat(number, f"balcony {number}")
        context.set_trailing_metadata((("x-left", "12"),))

    def book(self, requests, context):
        return seat(sum(1 for _ in requests), "booked")

    def swap(self, requests, context):
        for number, _ in enumerate(requests):
            yield seat(number, "swapped " * 30)
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no more swaps: 100% of them are gone")


def visit(compression):
    with grpc.insecure_channel(f"127.0.0.1:{port}", compression=compression) as channel:
        print(len(channel.unary_unary(f"/{SERVICE}/Get")(seat(1, "which " * 50), timeout=5)))
        print(list(channel.unary_stream(f"/{SERVICE}/List")(seat(2, ""), timeout=5)))
        seats = [seat(n, f"seat {n} " * 40) for n in range(3)]
        print(channel.stream_unary(f"/{SERVICE}/Book")(iter(seats), timeout=5))
        try:
            list(channel.stream_stream(f"/{SERVICE}/Swap")(iter(seats), timeout=5))
        except grpc.RpcError as error:
            print(error.code(), error.details())


if role == "serve":
    server = grpc.server(
        futures.ThreadPoolExecutor(2), handlers=(Handlers(),), compression=grpc.Compression.Gzip
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()
else:
    for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip, grpc.Compression.Deflate):
        visit(compression)
