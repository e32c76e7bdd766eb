"""A WebSocket client with fragments and permessage-deflate, with and without context takeover.

Usage: websocket_client.py PORT"""

import asyncio
import sys

from websockets.asyncio.client import connect
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory


async def fragments():
    for word in ("in ", "three ", "pieces"):
        yield word


async def talk(**options):
    async with connect(f"ws://127.0.0.1:{sys.argv[1]}/chat", **options) as socket:
        for message in ("good evening " * 5, "good evening " * 5, fragments(), bytes(range(256)) * 2, ""):
            await socket.send(message)
            print(len(await socket.recv()))
        await (await socket.ping(b"there?"))
        await socket.close(1001, "until tomorrow")


async def main():
    await talk()
    alone = ClientPerMessageDeflateFactory(
        client_no_context_takeover=True, server_no_context_takeover=True, client_max_window_bits=10
    )
    await talk(compression=None, extensions=[alone])
    await talk(compression=None)


asyncio.run(main())
