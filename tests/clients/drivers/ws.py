"""The WebSocket client of python-websockets. With `one`, one echo; with `all`, what RFC 6455 allows, a line for each case."""
import asyncio
import os
import sys

import websockets
from websockets.frames import CloseCode

url = os.environ["BASE"].replace("http", "ws", 1)


async def one():
    try:
        async with websockets.connect(url) as socket:
            await socket.send("hello")
            print(await socket.recv())
    except websockets.InvalidStatus as error:
        print(error, error.response.body.decode())
        sys.exit(1)


async def text(socket):
    await socket.send("größe ✓")
    assert await socket.recv() == "größe ✓"


async def binary(socket):
    await socket.send(bytes(range(256)))
    assert await socket.recv() == bytes(range(256))


async def empty(socket):
    for message in ["", b""]:
        await socket.send(message)
        assert await socket.recv() == message


async def each_length_form(socket):
    for length in [125, 126, 65535, 65536, 500_000]:
        await socket.send(b"x" * length)
        assert len(await socket.recv()) == length, length


async def fragments(socket):
    async def parts():
        for part in ["a", "", "b" * 200, "ü"]:
            yield part
    await socket.send(parts())
    assert await socket.recv() == "a" + "b" * 200 + "ü"


async def ping_between_fragments(socket):
    async def parts():
        yield "before "
        await asyncio.wait_for(await socket.ping(b"now"), 10)
        yield "after"
    await socket.send(parts())
    assert await socket.recv() == "before after"


async def ping(socket):
    await asyncio.wait_for(await socket.ping(b"x" * 125), 10)


async def unsolicited_pong(socket):
    await socket.pong(b"nobody asked")
    await text(socket)


async def many_in_flight(socket):
    for number in range(500):
        await socket.send(str(number))
    assert [await socket.recv() for _ in range(500)] == [str(number) for number in range(500)]


async def close_with_code_and_reason(socket):
    # The client waits ten seconds for the server to close the connection, and then does it by itself.
    await asyncio.wait_for(socket.close(CloseCode.GOING_AWAY, "done here"), 5)
    assert socket.close_code == CloseCode.GOING_AWAY, socket.close_code


async def close_without_code(socket):
    await asyncio.wait_for(socket.close(), 5)
    assert socket.close_code in (CloseCode.NORMAL_CLOSURE, CloseCode.NO_STATUS_RCVD), socket.close_code


async def idle_then_used(socket):
    await asyncio.sleep(2)
    await text(socket)


CASES = [text, binary, empty, each_length_form, fragments, ping, ping_between_fragments, unsolicited_pong, many_in_flight,
         idle_then_used, close_with_code_and_reason, close_without_code]


async def every():
    for compression in [None, "deflate"]:
        for case in CASES:
            name = f"{case.__name__}, {'permessage-deflate offered' if compression else 'no extension'}"
            try:
                async with websockets.connect(url, compression=compression, max_size=None) as socket:
                    await asyncio.wait_for(case(socket), 30)
                print("PASS", name)
            except Exception as error:
                print("FAIL", f"{name}: {type(error).__name__} {error}".replace("\n", " ")[:300])


asyncio.run(one() if sys.argv[1] == "one" else every())
