"""The whole hub under Hypothesis: any clients, any cores, any order.

    python -m pytest -n 0 -m slow tests/trace_proxy/relay/shared/test_hub_model.py

takes a million steps and more, half an hour of one core.
"""

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.trace_proxy.world import World

NUMBERS = st.integers(0, 255)


class HubMachine(RuleBasedStateMachine):
    """Steps of `World`; the likely ones are named more often."""

    world: World

    @initialize(cores=st.integers(1, 3), tight=st.booleans(), up=st.booleans())
    def begin(self, cores: int, *, tight: bool, up: bool) -> None:
        self.world = World(cores=cores, tight=tight)
        if up:
            for core in range(cores):
                self.world.do("start", core, 0, 0)
                self.world.do("answer", core, 0, 1)

    @rule(a=NUMBERS, b=NUMBERS, c=NUMBERS, action=st.sampled_from(("request", "answer", "push")))
    def work(self, action: str, a: int, b: int, c: int) -> None:
        self.world.do(action, a, b, c)

    @rule(
        a=NUMBERS,
        b=NUMBERS,
        c=NUMBERS,
        action=st.sampled_from(("connect", "decide", "ask", "start", "pipe", "output")),
    )
    def meet(self, action: str, a: int, b: int, c: int) -> None:
        self.world.do(action, a, b, c)

    @rule(
        a=NUMBERS,
        b=NUMBERS,
        c=NUMBERS,
        action=st.sampled_from(("leave", "crash", "stray", "babble", "initialize", "drain")),
    )
    def disturb(self, action: str, a: int, b: int, c: int) -> None:
        self.world.do(action, a, b, c)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.finish()


def test_whatever_happens_every_request_settles_once_at_its_own_asker() -> None:
    few = settings(
        max_examples=40,
        stateful_step_count=60,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(HubMachine, settings=few)


@pytest.mark.slow
def test_a_million_steps() -> None:
    many = settings(
        max_examples=10_000,  # of up to 200 steps, most of them as long
        stateful_step_count=200,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(HubMachine, settings=many)
