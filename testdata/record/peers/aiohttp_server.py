"""An aiohttp server: /chat is a WebSocket with permessage-deflate, /events server-sent events with
pauses. Usage: aiohttp_server.py PORT"""

import asyncio
import sys

from aiohttp import WSMsgType, web

EVENTS = [
    ": a comment first\nretry: 3000\n\n",
    "id: 1\nevent: seat\ndata: row 7\ndata: seat 12\n\n",
    'data: {"left": 11}\n\n',
    "id: 2\r\ndata: lines end in CR LF\r\n\r\n",
    "event: end\nda",
    "ta\n\n",
]


async def events(request):
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    await answer.prepare(request)
    for event in EVENTS:
        await answer.write(event.encode())
        await asyncio.sleep(0.05)
    await answer.write_eof()
    return answer


async def chat(request):
    socket = web.WebSocketResponse(compress=True)
    await socket.prepare(request)
    async for message in socket:
        if message.type == WSMsgType.TEXT:
            await socket.send_str(f"you said: {message.data}")
        elif message.type == WSMsgType.BINARY:
            await socket.send_bytes(message.data[::-1])
    return socket


app = web.Application()
app.add_routes([web.get("/chat", chat), web.get("/events", events)])
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
