"""The last messages that passed: bounded, only for who watches."""

from hypothesis import given
from hypothesis import strategies as st

from tests.trace_proxy.recording import Proxy
from trace_proxy.relay.wire import ROWS, Wire


def test_a_request_shows_with_its_answer_and_a_notification_with_whom_it_reached() -> None:
    proxy = Proxy().up()
    client, other = proxy.client(), proxy.client()
    board = proxy.hub.board
    board.watch(+1)
    assert board.wire is not None
    client.request(1, "model/list", {})
    proxy.core.fail(proxy.core.got()[-1]["id"], -32600, "no")
    proxy.core.notify("account/updated", {})
    proxy.core.ask(5, "item/tool/requestUserInput", {})
    other.answer(0, {})

    rows, more = board.wire.since(0, 100)

    assert more == 0
    assert [(each.way, each.method, each.connection, each.error) for each in rows] == [
        ("in", "model/list", f"#{client.key}", "-32600"),
        ("out", "account/updated", "2 clients", ""),
        ("out", "item/tool/requestUserInput", f"#{client.key}", ""),
        ("out", "item/tool/requestUserInput", f"#{other.key}", ""),
        ("in", "item/tool/requestUserInput", f"#{other.key}", ""),
    ]
    assert rows[0].ms is not None
    assert all(each.bytes > 0 for each in rows)


def test_nothing_is_kept_while_nobody_watches() -> None:
    proxy = Proxy().up()
    board = proxy.hub.board
    kept = [board.wire is not None]
    for change in (+1, +1, -1, -1):
        board.watch(change)
        kept.append(board.wire is not None)
    assert kept == [False, True, True, True, False]


@given(st.lists(st.integers(1, 700), max_size=8), st.integers(0, 200))
def test_who_asks_again_gets_what_is_new_and_how_much_was_left_out(
    batches: list[int], most: int
) -> None:
    wire, told, number = Wire(), 0, 0
    for batch in batches:
        for _ in range(batch):
            number += 1
            wire.answered(f"m{number}", 0, 1)
        rows, more = wire.since(told, most)
        told = wire.count
        assert len(rows) == min(batch, most, ROWS)
        assert len(rows) + more == batch
        first = number - len(rows) + 1
        assert [each.method for each in rows] == [f"m{n}" for n in range(first, number + 1)]
        assert [each.id for each in rows] == list(range(first, number + 1))


def test_a_long_method_is_cut() -> None:
    wire = Wire()
    wire.answered("x" * 1000, 0, 1)
    assert len(wire.since(0, 1)[0][0].method) == 64
