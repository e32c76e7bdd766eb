"""An HTTP/1.1 server and a client of it, on asyncio streams, both of which check every byte.

Usage: echo.py serve PORT | echo.py visit PORT CONNECTIONS REQUESTS

POST /A/B has a body of A bytes, and is answered with one of B: by chunks where B is odd. The server
serves until its standard input ends, then says how many requests it answered."""

import asyncio
import sys


def pattern(length, seed):
    """Bytes that a mistake of a place would change; `pattern` in services.rs makes the same."""
    period = bytes((i * 31 + seed) % 251 for i in range(251))
    return (period * (length // 251 + 1))[:length]


async def read_head(reader):
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = (line.split(":", 1) for line in lines[1:] if line)
    return lines[0].split(" "), {name.lower(): value.strip() for name, value in fields}


async def read_body(reader, fields):
    if "chunked" not in fields.get("transfer-encoding", ""):
        return await reader.readexactly(int(fields.get("content-length", 0)))
    body = b""
    while length := int(await reader.readline(), 16):
        body += await reader.readexactly(length)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return body


served = 0


async def serve(reader, writer):
    global served
    try:
        while True:
            (_, target, _), fields = await read_head(reader)
            asked, answered = map(int, target[1:].split("/"))
            assert await read_body(reader, fields) == pattern(asked, 1), target
            body = pattern(answered, 2)
            if answered % 2:
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                for at in range(0, answered, 9_999):
                    part = body[at : at + 9_999]
                    writer.write(b"%x\r\n%s\r\n" % (len(part), part))
                    await writer.drain()
                writer.write(b"0\r\n\r\n")
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % answered + body)
            await writer.drain()
            served += 1
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def serve_until_told(port):
    server = await asyncio.start_server(serve, "127.0.0.1", port)
    print("listening", server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    print("served", served, flush=True)


async def visit(port, first, requests):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for number in range(first, first + requests):
        asked, answered = number * number * 37 % 20_000, number * 977 % 70_000
        head = f"POST /{asked}/{answered} HTTP/1.1\r\nHost: test\r\nContent-Length: {asked}\r\n\r\n"
        writer.write(head.encode() + pattern(asked, 1))
        await writer.drain()
        (_, status, *_), fields = await read_head(reader)
        assert status == "200", status
        assert await read_body(reader, fields) == pattern(answered, 2), (asked, answered)
    writer.close()
    await writer.wait_closed()


async def visit_all(port, connections, requests):
    await asyncio.gather(*(visit(port, n * requests, requests) for n in range(connections)))
    print("answered", connections * requests, flush=True)


role, *numbers = sys.argv[1:]
main = serve_until_told if role == "serve" else visit_all
asyncio.run(main(*map(int, numbers)))
