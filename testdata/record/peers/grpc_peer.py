"""A gRPC server and a client of it, with messages of plain bytes (no generated code).

Usage: grpc_peer.py serve PORT | grpc_peer.py visit PORT [CERTIFICATE]      with one: over TLS"""

import sys
from concurrent import futures

import grpc

role, port, *certificate = sys.argv[1:]
SERVICE = "shop.Booking"


class Handlers(grpc.GenericRpcHandler):
    def service(self, details):
        return {
            f"/{SERVICE}/Reserve": grpc.unary_unary_rpc_method_handler(self.reserve),
            f"/{SERVICE}/Watch": grpc.unary_stream_rpc_method_handler(self.watch),
            f"/{SERVICE}/Chat": grpc.stream_stream_rpc_method_handler(self.chat),
        }.get(details.method)

    def reserve(self, request, context):
        if request == b"taken":
            context.set_trailing_metadata((("x-seat", "7"),))
            context.abort(grpc.StatusCode.ALREADY_EXISTS, "the seat is taken; é")
        return b"reserved:" + request

    def watch(self, request, context):
        for number in range(5):
            yield request + b"-%d" % number

    def chat(self, requests, context):
        for request in requests:
            yield request.upper()


if role == "serve":
    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=(Handlers(),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()
else:
    if certificate:
        trusted = grpc.ssl_channel_credentials(open(certificate[0], "rb").read())
        opened = grpc.secure_channel(f"localhost:{port}", trusted)
    else:
        opened = grpc.insecure_channel(f"127.0.0.1:{port}")
    with opened as channel:
        reserve = channel.unary_unary(f"/{SERVICE}/Reserve")
        print(reserve(b"seat-12", metadata=(("x-user", "ann"),), timeout=5))
        print(reserve(b"", timeout=5))
        try:
            reserve(b"taken", timeout=5)
        except grpc.RpcError as error:
            print(error.code(), error.details())
        print(list(channel.unary_stream(f"/{SERVICE}/Watch")(b"date", timeout=5)))
        chat = channel.stream_stream(f"/{SERVICE}/Chat")
        print(list(chat(iter([b"hello", b"how", b"are you " * 100]), timeout=5)))
        try:
            channel.unary_unary(f"/{SERVICE}/Missing")(b"x", timeout=5)
        except grpc.RpcError as error:
            print(error.code())
