"""Conformance of a server's /echo, seen by the Python package `websockets`.

Takes the URL; writes one line for each promise that holds, and ends with an error at the first that does not.
"""

import asyncio
import os
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

MIB = 1024 * 1024
# The package ends a message of several pieces with an empty fragment of its own.
MOST_PIECES = 65536 - 1
SIZES = [0, 1, 125, 126, 127, 65535, 65536, MIB, 16 * MIB]


def dial(url):
    return connect(url, max_size=None, compression=None, open_timeout=10, ping_interval=None)


async def expect_close(socket, code):
    try:
        await asyncio.wait_for(socket.recv(), 20)
    except ConnectionClosed as closed:
        assert closed.rcvd is not None and closed.rcvd.code == code, closed
        return
    raise AssertionError(f"not closed with {code}")


async def every_size_comes_back(url):
    async with dial(url) as socket:
        for size in SIZES:
            for message in ("界" * (size // 3) + "x" * (size % 3), os.urandom(size)):
                await socket.send(message)
                assert await asyncio.wait_for(socket.recv(), 20) == message, size


async def fragments_come_back_as_one_message(url):
    async with dial(url) as socket:
        for pieces in (["界", "", "wide", "界"], [b"\x00", b"", b"\xff" * 70000], ["x"] * MOST_PIECES):
            await socket.send(pieces)
            expected = pieces[0][:0].join(pieces)
            assert await asyncio.wait_for(socket.recv(), 20) == expected


async def a_ping_is_answered_between_fragments(url):
    async with dial(url) as socket:

        async def pieces():
            yield "first"
            await asyncio.wait_for(await socket.ping(b"between"), 10)
            yield "second"

        await socket.send(pieces())
        assert await asyncio.wait_for(socket.recv(), 20) == "firstsecond"


async def what_is_too_large_is_closed_with_1009(url):
    for message in (["x"] * (MOST_PIECES + 1), b"x" * (16 * MIB + 1)):
        # Not closed by us: the package stumbles over a transport that is gone.
        socket = await dial(url)
        try:
            await socket.send(message)
        except ConnectionClosed:
            pass  # it was told before it had sent all
        await expect_close(socket, 1009)


async def a_close_comes_back_with_its_code(url):
    for code in (1000, 1001, 3000, 4999):
        socket = await dial(url)
        await socket.close(code=code)
        assert socket.close_code == code, (code, socket.close_code)


async def main(url):
    for promise in (
        every_size_comes_back,
        fragments_come_back_as_one_message,
        a_ping_is_answered_between_fragments,
        what_is_too_large_is_closed_with_1009,
        a_close_comes_back_with_its_code,
    ):
        await promise(url)
        print(promise.__name__, flush=True)


asyncio.run(main(sys.argv[1]))
