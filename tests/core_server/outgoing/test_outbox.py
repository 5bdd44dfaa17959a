import asyncio

from hypothesis import given
from hypothesis import strategies as st

from core_server.outgoing.outbox import HIGH_WATER_BYTES, Outbox


class Wire:
    """Takes lines."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.unread_bytes = 0
        self.less = 0

    def outbox(self) -> Outbox:
        def on_less() -> None:
            self.less += 1

        return Outbox(self.lines.append, lambda: self.unread_bytes, on_less)


def _write() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


async def test_a_message_waits_for_its_write_and_those_behind_it_wait_too() -> None:
    wire = Wire()
    outbox = wire.outbox()
    written = _write()
    outbox.post(b"item", "thread", written)
    outbox.post(b"delta", "thread")
    outbox.post(b"other", "another")
    outbox.post(b"answer")
    assert wire.lines == [b"other", b"answer"]
    assert repr(outbox) == "<Outbox lanes=1 held=9>"
    written.set_result(None)
    await outbox.settled()
    assert wire.lines == [b"other", b"answer", b"item", b"delta"]


async def test_a_failed_write_sends_the_error_instead_or_nothing() -> None:
    wire = Wire()
    outbox = wire.outbox()
    first, second = _write(), _write()
    outbox.post(b"answer", "t", first, b"error")
    outbox.post(b"item", "t", second)
    outbox.post(b"delta", "t")
    outbox.post(b"status", "t", firm=True)
    outbox.post(b"elsewhere", "u")
    first.set_exception(OSError())
    second.cancel()
    await outbox.settled()
    assert wire.lines == [b"elsewhere", b"error", b"status"]
    assert repr(outbox) == "<Outbox lanes=0 held=0>"


async def test_whoever_produces_waits_while_too_much_is_unread() -> None:
    wire = Wire()
    outbox = wire.outbox()
    wire.unread_bytes = HIGH_WATER_BYTES + 1
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(outbox.room())
        await asyncio.sleep(0)
        outbox.less()
        await asyncio.sleep(0)
        assert not waiting.done()
        wire.unread_bytes = 0
        outbox.less()
    assert wire.less == 2


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans()), max_size=30))
def test_each_lane_keeps_its_order_and_nothing_precedes_its_write(
    posts: list[tuple[str, bool]],
) -> None:
    async def play() -> None:
        wire = Wire()
        outbox = wire.outbox()
        writes: dict[bytes, asyncio.Future[None]] = {}
        for number, (lane, has_write) in enumerate(posts):
            line = b"%b%d" % (lane.encode(), number)
            if has_write:
                writes[line] = _write()
            outbox.post(line, lane, writes.get(line))
        for line, written in writes.items():
            assert line not in wire.lines
            written.set_result(None)
            await asyncio.sleep(0)
        await outbox.settled()
        for lane in "ab":
            sent = [line for line in wire.lines if line.startswith(lane.encode())]
            assert sent == [
                b"%b%d" % (lane.encode(), n) for n, (at, _) in enumerate(posts) if at == lane
            ]

    asyncio.run(play())
