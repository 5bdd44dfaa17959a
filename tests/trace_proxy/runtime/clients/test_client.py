"""A client's queue and its writer task, on a virtual clock that raises when nothing can go on."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import async_solipsism
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trace_proxy.runtime.clients.slow_peer import SLOW_CLOSE_S, Peer
from trace_proxy.queues.client_queue import ClientQueue, ClientQueueBounds, TotalOutbound, Verdict

T = TypeVar("T")


def virtually(story: Callable[[], Awaitable[T]]) -> T:
    """Run a story in a moment, however long it takes; raise if it comes to a standstill."""

    async def told() -> T:
        return await story()

    with asyncio.Runner(loop_factory=async_solipsism.EventLoop) as runner:
        return runner.run(told())


def queue(**bounds: int) -> ClientQueue:
    return TotalOutbound(1 << 30).open(0, ClientQueueBounds(**bounds))


def test_what_a_slow_peer_could_not_take_goes_out_when_it_reads() -> None:
    async def story() -> bytes:
        peer = Peer(queue())
        async with asyncio.TaskGroup() as tasks:
            peer.writes_in(tasks)
            for number in range(100):
                peer.send(b"%04d" % number)
            while len(peer.queue):
                peer.read()
                await asyncio.sleep(1)
            peer.read()
            peer.close(1000, "done")
        return peer.got

    assert virtually(story) == b"".join(b"%04d" % number for number in range(100))


def test_a_close_waits_for_what_is_queued() -> None:
    async def story() -> Peer:
        peer = Peer(queue())
        async with asyncio.TaskGroup() as tasks:
            peer.writes_in(tasks)
            for _ in range(5):
                peer.send(b"x" * 10)
            peer.close(1012, "restart")
            while peer.closed_with is None:
                await asyncio.sleep(0.1)
                peer.read()
        return peer

    peer = virtually(story)
    assert (len(peer.got), peer.closed_with) == (50, (1012, "restart"))


def test_a_peer_that_takes_nothing_is_aborted_when_its_time_is_over() -> None:
    async def story() -> tuple[Peer, float]:
        peer = Peer(queue())
        began_s = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as tasks:
            peer.writes_in(tasks)
            peer.send(b"x" * 10)
            peer.send(b"y" * 10)
            peer.close(1012, "restart")
        return peer, began_s

    peer, began_s = virtually(story)
    assert peer.closed_with is None
    assert peer.aborted_at_s == pytest.approx(began_s + SLOW_CLOSE_S)


def test_a_cut_drops_what_waits_and_says_why() -> None:
    async def story() -> Peer:
        peer = Peer(queue())
        async with asyncio.TaskGroup() as tasks:
            peer.writes_in(tasks)
            for _ in range(5):
                peer.send(b"x" * 10)
            peer.close(1013, "too slow", drop=True)
            peer.read()
        return peer

    peer = virtually(story)
    assert (peer.got, peer.closed_with) == (b"x" * 10, (1013, "too slow"))


@pytest.mark.parametrize(("queued", "code"), [(5, 1013), (1, 1012)])
def test_a_cut_in_the_middle_of_a_close_says_that_something_was_dropped(
    queued: int, code: int
) -> None:
    async def story() -> Peer:
        peer = Peer(queue())
        async with asyncio.TaskGroup() as tasks:
            peer.writes_in(tasks)
            for _ in range(queued):
                peer.send(b"x" * 10)
            peer.close(1012, "restart")
            await asyncio.sleep(0.1)
            peer.close(1013, "too slow", drop=True)
            peer.read()
        return peer

    peer = virtually(story)
    assert peer.got == b"x" * 10
    assert peer.closed_with is not None
    assert peer.closed_with[0] == code


def test_without_progress_the_verdict_is_to_cut() -> None:
    async def story() -> list[Verdict]:
        peer = Peer(queue(stall_s=10))
        verdicts = []
        async with asyncio.TaskGroup() as tasks:
            peer.writes_in(tasks)
            peer.send(b"x" * 10)
            peer.send(b"x" * 10)
            for _ in range(3):
                verdicts.append(peer.judge(asyncio.get_running_loop().time()))
                await asyncio.sleep(5)
            peer.close(1013, "too slow", drop=True)
            peer.read()
        return verdicts

    assert virtually(story) == [Verdict.OK, Verdict.OK, Verdict.CUT]


@given(
    st.lists(st.sampled_from(["send", "read", "wait"]), max_size=60),
    st.integers(1, 30),
    st.integers(0, 2**32),
)
def test_no_interleaving_stalls_loses_or_reorders(steps: list[str], room: int, end: int) -> None:
    async def story() -> tuple[bytes, bytes]:
        peer, sent = Peer(queue(), room), b""
        async with asyncio.TaskGroup() as tasks:
            peer.writes_in(tasks)
            for number, step in enumerate(steps):
                if step == "send":
                    message = b"<%d>" % number
                    sent += message
                    peer.send(message)
                elif step == "read":
                    peer.read()
                else:
                    await asyncio.sleep(1)
            peer.close(1000 + end % 10, "end")
            while peer.closed_with is None:
                peer.read()
                await asyncio.sleep(0.1)
            peer.read()
        return sent, peer.got

    sent, got = virtually(story)
    assert got == sent
