import asyncio
import os
import socket
from pathlib import Path

from core_server.jsonrpc.framing import Oversized
from core_server.runtime.stdio import Reader, Writer, pollable


def _nothing() -> None:
    """Nobody cares."""


async def test_lines_come_in_order_and_the_end_once() -> None:
    theirs, ours = os.pipe()
    os.set_blocking(theirs, False)
    lines: list[bytes | Oversized] = []
    ended = asyncio.Event()
    reader = Reader(theirs, 10, lines.extend, ended.set)
    reader.resume()
    os.write(ours, b"one\ntwo\n" + b"x" * 20 + b"\nlast")
    os.close(ours)
    async with asyncio.timeout(5):
        await ended.wait()
    reader.resume()
    assert lines == [b"one", b"two", Oversized(20, b"x" * 20), b"last"]
    os.close(theirs)


async def test_a_paused_reader_leaves_what_comes_in_the_pipe() -> None:
    theirs, ours = os.pipe()
    os.set_blocking(theirs, False)
    lines: list[bytes | Oversized] = []
    ended = asyncio.Event()
    reader = Reader(theirs, 10, lines.extend, ended.set)
    reader.resume()
    reader.pause()
    os.write(ours, b"one\n")
    await asyncio.sleep(0)
    assert lines == []
    os.close(ours)
    reader.resume()
    async with asyncio.timeout(5):
        await ended.wait()
    assert lines == [b"one"]
    os.close(theirs)


async def test_what_does_not_fit_is_kept_and_told_as_buffered() -> None:
    theirs, ours = os.pipe()
    os.set_blocking(ours, False)
    progress = asyncio.Event()
    writer = Writer(ours, _nothing, progress.set)
    big = b"x" * 3_000_000
    writer.write(big)
    writer.write(b"tail")
    writer.flush()
    assert writer.buffered_bytes > 2_000_000
    received = bytearray()
    async with asyncio.timeout(10):
        while len(received) < len(big) + 6:
            received += await asyncio.to_thread(os.read, theirs, 1 << 20)
    assert bytes(received) == big + b"\ntail\n"
    assert progress.is_set()
    await writer.close(1, None)
    os.close(theirs)


async def test_a_reader_that_is_gone_is_noticed_without_writing() -> None:
    theirs, ours = os.pipe()
    os.set_blocking(ours, False)
    broken = asyncio.Event()
    writer = Writer(ours, broken.set, _nothing)
    os.close(theirs)
    async with asyncio.timeout(5):
        await broken.wait()
    writer.write(b"nobody")
    writer.flush()
    assert writer.buffered_bytes == 0
    await writer.close(1, None)


async def test_a_closed_socket_is_noticed_and_one_with_input_is_left_alone() -> None:
    theirs, ours = socket.socketpair()
    broken = asyncio.Event()
    writer = Writer(ours.detach(), broken.set, _nothing)
    theirs.send(b"input")
    await asyncio.sleep(0)
    writer.write(b"still here")
    writer.flush()
    assert await asyncio.to_thread(theirs.recv, 100) == b"still here\n"
    assert not broken.is_set()
    await writer.close(1, None)
    theirs.close()
    left, right = socket.socketpair()
    watching = Writer(right.detach(), broken.set, _nothing)
    left.close()
    async with asyncio.timeout(5):
        await broken.wait()
    await watching.close(1, None)


async def test_closing_gives_up_on_a_client_that_does_not_read() -> None:
    theirs, ours = os.pipe()
    os.set_blocking(ours, False)
    writer = Writer(ours, _nothing, _nothing)
    writer.write(b"x" * 1_000_000)
    async with asyncio.timeout(5):
        await writer.close(0.05, None)
    os.close(theirs)


async def test_files_are_carried_through_a_pipe(tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(b"from a file\n")
    in_fd, _ = pollable(os.open(source, os.O_RDONLY), os.O_RDONLY)
    lines: list[bytes | Oversized] = []
    ended = asyncio.Event()
    Reader(in_fd, 100, lines.extend, ended.set).resume()
    async with asyncio.timeout(5):
        await ended.wait()
    out_fd, carrier = pollable(os.open(target, os.O_WRONLY | os.O_CREAT), os.O_WRONLY)
    writer = Writer(out_fd, _nothing, _nothing)
    writer.write(b"to a file")
    await writer.close(5, carrier)
    assert lines == [b"from a file"]
    assert target.read_bytes() == b"to a file\n"
    os.close(in_fd)


async def test_a_pipe_that_others_hold_stays_blocking_for_them() -> None:
    theirs, ours = os.pipe()
    shared = os.dup(theirs)
    own, carrier = pollable(theirs, os.O_RDONLY)
    assert (os.get_blocking(own), os.get_blocking(shared), carrier) == (False, True, None)
    for fd in (own, shared, ours):
        os.close(fd)
