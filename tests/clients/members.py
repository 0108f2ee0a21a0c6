"""WebSocket members with the Python package `websockets`.

Reads commands from stdin, one JSON object a line:
    {"id": 1, "open": "ws://..."}   connect
    {"id": 1, "send": "text"}       send a text message
    {"id": 1, "close": 1000}        close with this code
Writes what happens to stdout, one JSON object a line:
    {"id": 1, "event": "open" | "text" | "binary" | "closed" | "refused" | "failed", ...}
Ends when stdin does.
"""

import asyncio
import json
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus


def tell(member, event, **more):
    sys.stdout.write(json.dumps({"id": member, "event": event, **more}) + "\n")
    sys.stdout.flush()


async def live(member, url, sockets):
    try:
        async with connect(url, max_size=None, open_timeout=10) as socket:
            sockets[member] = socket
            tell(member, "open")
            try:
                while True:
                    message = await socket.recv()
                    if isinstance(message, str):
                        tell(member, "text", text=message)
                    else:
                        tell(member, "binary")
            except ConnectionClosed as closed:
                received = closed.rcvd
                tell(
                    member,
                    "closed",
                    code=received.code if received else 1006,
                    reason=received.reason if received else "",
                )
    except InvalidStatus as refused:
        tell(member, "refused", status=refused.response.status_code)
    except Exception as error:  # whatever it is, the test is to see it
        tell(member, "failed", error=repr(error))


async def main():
    loop = asyncio.get_running_loop()
    stdin = asyncio.StreamReader(limit=64 * 1024 * 1024)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    sockets, tasks = {}, set()
    while line := await stdin.readline():
        command = json.loads(line)
        member = command["id"]
        if "open" in command:
            task = asyncio.create_task(live(member, command["open"], sockets))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        elif "send" in command:
            await sockets[member].send(command["send"])
        elif "close" in command:
            await sockets[member].close(code=command["close"])


asyncio.run(main())
