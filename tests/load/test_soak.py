"""The soak: a miniature by default, minutes of it by name."""

import pytest

from tests.load.soak import parse, soak


async def test_a_short_soak_loses_nothing() -> None:
    small = "--minutes 0.2 --connections 20 --rate 100 --kills 1 --drains 1 --visit 5 --turns 0.5"
    assert await soak(parse(small.split()))


@pytest.mark.slow
async def test_minutes_of_load_kills_and_drains_lose_nothing_and_nothing_grows() -> None:
    assert await soak(parse(["--minutes", "4"]))
