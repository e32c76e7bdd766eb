"""A keep-alive HTTP/1.1 server on asyncio streams, slow on purpose. Usage: asyncio_server.py PORT"""

import asyncio
import json
import sys


async def serve(reader, writer):
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, target, _ = head.split("\r\n", 1)[0].split(" ")
            length = next(
                (
                    int(line.split(":")[1])
                    for line in head.split("\r\n")
                    if line.lower().startswith("content-length:")
                ),
                0,
            )
            body = await reader.readexactly(length)
            await asyncio.sleep(0.02)
            answer = json.dumps({"method": method, "target": target, "bytes": len(body)}).encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\nServer: asyncio\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
                % len(answer)
                + answer
            )
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


asyncio.run(main())
