"""A page that is dear to make is made a few times a second, however many ask."""

import asyncio

from trace_proxy.runtime.telemetry.metrics.meters import Pages


class Maker:
    """Makes pages, and counts them."""

    def __init__(self) -> None:
        self.made = 0

    def make(self) -> bytes:
        self.made += 1
        return b"%d" % self.made


async def test_who_asks_now_and_then_gets_a_page_at_once() -> None:
    maker = Maker()
    pages = Pages(maker.make, per_second=1)
    async with asyncio.timeout(0.5):
        assert await pages.page() == b"1"
    assert repr(pages) == "<Pages made=1>"


async def test_a_flood_gets_few_pages_and_everybody_one() -> None:
    maker = Maker()
    pages = Pages(maker.make, per_second=20)

    async def ask() -> list[bytes]:
        return [await pages.page() for _ in range(10)]

    async with asyncio.TaskGroup() as tasks:
        asking = [tasks.create_task(ask()) for _ in range(50)]
    for answer in (each.result() for each in asking):
        assert answer == sorted(set(answer), key=int), "never an old one"
    assert maker.made <= 11


async def test_the_page_was_made_after_it_was_asked_for() -> None:
    maker = Maker()
    pages = Pages(maker.make, per_second=50)
    for _ in range(60):
        before = maker.made
        async with asyncio.TaskGroup() as tasks:
            waiting = [tasks.create_task(pages.page()) for _ in range(3)]
        assert all(int(each.result()) > before for each in waiting)


async def test_one_who_hangs_up_while_he_waits_keeps_nobody_waiting() -> None:
    maker = Maker()
    pages = Pages(maker.make, per_second=10)
    for _ in range(11):
        await pages.page()
    async with asyncio.TaskGroup() as tasks:
        gone, stays = tasks.create_task(pages.page()), tasks.create_task(pages.page())
        await asyncio.sleep(0)
        gone.cancel()
    assert stays.result() == b"12"
