"""A WebSocket echo server and a client of it (the `websockets` package).

Usage: websocket_peer.py serve PORT | websocket_peer.py visit PORT"""

import asyncio
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

role, port = sys.argv[1], int(sys.argv[2])


async def echo(socket):
    async for message in socket:
        await socket.send(message)


async def main():
    if role == "serve":
        async with serve(echo, "127.0.0.1", port) as server:
            await server.serve_forever()
    async with connect(f"ws://127.0.0.1:{port}/chat?room=1") as socket:
        for message in ("hello", "x" * 300, b"\x00\x01\x02"):
            await socket.send(message)
            assert await socket.recv() == message
        await socket.ping()


asyncio.run(main())
