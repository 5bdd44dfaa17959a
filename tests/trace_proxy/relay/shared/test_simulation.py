"""The whole hub in seeded simulations: a seed that fails is a story to be told again.

    python -m pytest -n 0 -m slow tests/trace_proxy/relay/shared/test_simulation.py

runs a thousand seeds of a thousand steps.
"""

import random

import pytest

from tests.trace_proxy.world import World

STEPS = 1_000

LIKELY = {
    "request": 30,
    "answer": 30,
    "push": 14,
    "ask": 3,
    "decide": 4,
    "connect": 3,
    "leave": 2,
    "start": 4,
    "crash": 1,
    "pipe": 3,
    "stray": 2,
    "babble": 1,
    "output": 1,
    "initialize": 1,
    "drain": 1,
}


def simulate(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - no secret
    world = World(cores=1 + seed % 3, tight=seed % 4 == 3)
    actions, weights = list(LIKELY), list(LIKELY.values())
    for action in chance.choices(actions, weights, k=STEPS):
        world.do(action, *(chance.randrange(256) for _ in range(3)))
    world.finish()


@pytest.mark.parametrize("seed", range(20))
def test_a_simulated_day_leaves_nothing_behind(seed: int) -> None:
    simulate(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1_000))
def test_a_thousand_simulated_days_leave_nothing_behind(seed: int) -> None:
    simulate(seed)
