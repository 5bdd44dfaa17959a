"""Large messages of one client are handled at a bounded speed, whatever others send."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.load.shapes import SHAPES, shaped
from trace_proxy.queues.pace import ASK_AGAIN_S, BURST_S, WEIGHED_BYTES, Pace, cost_of

BURST_BYTES = int(BURST_S * 100)


def test_after_a_quiet_time_a_large_message_waits_for_nothing() -> None:
    pace = Pace(bytes_per_s=100)
    assert pace.handle(1, BURST_BYTES, now_s=50) == 0
    assert repr(pace) == "<Pace bytes left={1: 0}>"


def test_the_next_one_waits_until_what_was_sent_is_paid_for() -> None:
    pace = Pace(bytes_per_s=100)
    assert pace.handle(1, BURST_BYTES + 300, now_s=0) == 0
    assert pace.handle(1, 1, now_s=1) == ASK_AGAIN_S
    assert pace.handle(1, 1, now_s=2.9) > 0
    assert pace.handle(1, 1, now_s=3.1) == 0


def test_nobody_waits_for_what_others_sent() -> None:
    pace = Pace(bytes_per_s=100)
    pace.handle(1, 10_000, now_s=0)
    assert pace.handle(2, 10_000, now_s=0) == 0


def test_nothing_is_kept_of_who_has_left() -> None:
    pace = Pace(bytes_per_s=100)
    pace.handle(1, 10_000, now_s=0)
    pace.leave(1)
    pace.leave(2)
    assert repr(pace) == "<Pace bytes left={}>"


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 400)), max_size=60))
def test_everybody_is_let_in_and_never_faster_than_agreed(asks: list[tuple[int, int]]) -> None:
    pace = Pace(bytes_per_s=100)
    now_s, read, most = 0.0, dict.fromkeys(range(5), 0), 0
    for key, size in asks:
        tries = 0
        while wait_s := pace.handle(key, size, now_s):
            now_s += wait_s
            tries += 1
            assert tries < 400
        read[key], most = read[key] + size, max(most, size)
        assert read[key] <= 100 * (now_s + BURST_S) + most


KIB = 1024
VALUES = [name for name, (_, piece, _) in SHAPES.items() if "," in piece and len(piece) < 100]


@pytest.mark.parametrize("name", SHAPES)
def test_what_is_all_values_costs_more_than_its_bytes(name: str) -> None:
    message = shaped(name, 31 * KIB).encode()
    if name in VALUES:
        assert cost_of(message) > 2 * len(message)
    elif "{" not in SHAPES[name].piece and "[[" not in SHAPES[name].piece:
        assert cost_of(message) == len(message)


def test_a_table_is_data_as_such_and_one_text_within_a_string() -> None:
    rows = [[row, row * row, True] for row in range(2000)]
    text = "".join(f"{a},{b},{c}\n" for a, b, c in rows)
    as_text = msgspec.json.encode({"method": "turn/start", "id": 1, "params": {"text": text}})
    assert cost_of(as_text) == len(as_text)
    as_data = msgspec.json.encode({"id": 1, "result": rows})
    assert cost_of(as_data) > 4 * len(as_data)


ORDINARY = [
    {"method": "item/agentMessage/delta", "params": {"delta": "x" * 300, "itemId": "i" * 36}},
    {"id": 1, "method": "turn/start", "params": {"input": [{"type": "text", "text": "{[" * 100}]}},
    {
        "id": 1,
        "method": "turn/start",
        "params": {
            "input": [{"type": "text", "text": "see the picture"}] * 20
            + [{"type": "image", "url": "data:image/png;base64," + "iVBORw0K" * 100_000}]
        },
    },
    {"result": {"data": [{"id": "0" * 36, "name": "a name", "tags": ["a", "b"]}] * 300}},
    {"params": {"text": "for (i = 0; i < n; i++) { total += values[i] * 2; }" * 600}},
]


def test_nothing_costs_more_than_a_text_of_the_full_size_or_its_own_bytes() -> None:
    assert cost_of(b"[" * 3_000_000) == 16 * 2**20
    assert cost_of(b"[" * 20_000_000) == 20_000_000
    assert cost_of(b"x" * 20_000_000) == 20_000_000


@pytest.mark.parametrize("message", ORDINARY)
def test_what_clients_really_send_costs_its_bytes(message: object) -> None:
    encoded = msgspec.json.encode(message)
    assert cost_of(encoded) == len(encoded)


@given(st.binary(max_size=WEIGHED_BYTES - 1))
def test_a_small_message_costs_its_bytes_whatever_they_are(message: bytes) -> None:
    assert cost_of(message) == len(message)
