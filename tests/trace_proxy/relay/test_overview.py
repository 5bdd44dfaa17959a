"""What people may see: rows without content, bounded, told as changes."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trace_proxy.recording import Client, Proxy
from trace_proxy.protocol import methods
from trace_proxy.relay import overview
from trace_proxy.relay.overview import Change, LiveRow, NeedRow, RecentRow, Rows, changed

COMMAND = {"type": "commandExecution", "id": "i", "command": "SECRET"}


def live(proxy: Proxy) -> LiveRow:
    (row,) = proxy.hub.board.overview.live().values()
    assert isinstance(row, LiveRow)
    return row


def recent(proxy: Proxy) -> RecentRow:
    (row,) = proxy.hub.board.overview.recent().values()
    assert isinstance(row, RecentRow)
    return row


def end(proxy: Proxy, turn: str = "u", status: str = "completed") -> None:
    proxy.core.notify("turn/completed", {"threadId": "t", "turn": {"id": turn, "status": status}})


def test_a_turn_is_live_until_it_has_ended_and_recent_from_then_on(
    proxy: Proxy, client: Client
) -> None:
    proxy.turn(client)
    running = live(proxy)
    assert (running.client, running.thread, running.now) == ("client", "t", "model")
    assert running.connection == str(client.key)
    assert len(running.trace) == 32

    end(proxy, status="failed")

    assert proxy.hub.board.overview.live() == {}
    row = recent(proxy)
    assert (row.client, row.thread, row.status, row.trace) == (
        "client",
        "t",
        "failed",
        running.trace,
    )
    assert row.end_ms >= row.start_ms


def test_what_a_turn_does_now_is_its_tool_and_then_the_human_who_is_asked(
    proxy: Proxy, client: Client
) -> None:
    proxy.turn(client)
    at = {"threadId": "t", "turnId": "u"}
    proxy.core.notify("item/started", {**at, "item": COMMAND})
    assert (live(proxy).now, live(proxy).tool) == ("tool", "shell")

    proxy.core.ask(7, "item/commandExecution/requestApproval", {**at, "itemId": "i"})
    assert (live(proxy).now, live(proxy).tool) == ("human", "")
    (need,) = proxy.hub.board.overview.needs().values()
    assert isinstance(need, NeedRow)
    kind = "item/commandExecution/requestApproval"
    assert (need.kind, need.client, need.thread, need.turn) == (kind, "client", "t", "u")

    client.answer(0, {"decision": "accept"})
    assert live(proxy).now == "tool"
    assert proxy.hub.board.overview.needs() == {}
    proxy.core.notify("item/completed", {**at, "item": {**COMMAND, "status": "completed"}})
    assert live(proxy).now == "model"


@pytest.mark.parametrize("method", sorted(methods.SERVER_REQUESTS))
def test_a_human_is_waited_for_where_one_is_asked_and_not_where_a_program_answers(
    proxy: Proxy, client: Client, method: str
) -> None:
    proxy.turn(client)
    proxy.core.ask(7, method, {"threadId": "t", "turnId": "u"})
    people = method not in methods.OF_PROGRAMS
    rows = proxy.hub.board.overview.needs().values()
    assert [isinstance(each, NeedRow) and each.kind for each in rows] == [method] * people
    assert live(proxy).now == ("human" if people else "model")
    client.answer(0, {})
    assert live(proxy).now == "model"


def test_a_lost_core_is_named_as_what_ended_its_turns(proxy: Proxy, client: Client) -> None:
    proxy.turn(client)
    proxy.core.die()
    assert (recent(proxy).status, recent(proxy).error) == ("interrupted", "core_lost")


def test_no_row_holds_what_was_said(proxy: Proxy, client: Client) -> None:
    secret = {"text": "SECRET", "command": "SECRET", "cwd": "/SECRET", "reason": "SECRET"}
    proxy.turn(client)
    at = {"threadId": "t", "turnId": "u"}
    proxy.hub.board.watch(+1)
    proxy.core.notify("item/started", {**at, "item": {**COMMAND, **secret}})
    proxy.core.notify("item/agentMessage/delta", {**at, "itemId": "m", "delta": "SECRET"})
    proxy.core.ask(7, "item/commandExecution/requestApproval", {**at, **secret})
    client.request(9, "model/list", secret)
    proxy.core.answer(proxy.core.got()[-1]["id"], secret)
    board = proxy.hub.board
    assert board.wire is not None
    rows = [board.overview.live(), board.overview.needs(), board.wire.since(0, 100)]
    end(proxy)
    shown = msgspec.json.encode([*rows, board.overview.recent()])
    assert b"item/agentMessage/delta" in shown
    assert b"SECRET" not in shown


def test_as_many_turns_are_kept_as_a_page_shows(proxy: Proxy, client: Client) -> None:
    for number in range(overview.RECENT_KEPT + 50):
        proxy.turn(client, turn=f"u{number}")
        end(proxy, f"u{number}")
    kept = proxy.hub.board.overview.recent()
    assert list(kept) == [f"u{number}" for number in range(50, overview.RECENT_KEPT + 50)]


def test_long_ids_and_names_are_cut(proxy: Proxy) -> None:
    client = proxy.client()
    thread = proxy.thread(client, "t" * 1000)
    proxy.turn(client, thread, "u" * 1000)
    ((turn, row),) = proxy.hub.board.overview.live().items()
    assert isinstance(row, LiveRow)
    assert (len(turn), len(row.thread)) == (128, 128)


def test_clients_are_shown_with_what_waits_for_them(proxy: Proxy) -> None:
    known, stranger = proxy.client(), proxy.connect()
    queues = [(known.key, 5, "slow"), (stranger.key, 0, "ok"), (99, 0, "ok")]
    rows = msgspec.to_builtins(proxy.hub.board.overview.clients(queues))
    assert [(each["name"], each["queueBytes"], each["state"]) for each in rows.values()] == [
        ("client", 5, "slow"),
        ("", 0, "ok"),
    ]


def needs(rows: dict[str, int]) -> Rows:
    return {key: NeedRow("k", "", "", "", value) for key, value in rows.items()}


ROWS = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 3)).map(needs)


@given(before=ROWS, after=ROWS)
def test_a_change_turns_what_was_told_into_what_is(before: Rows, after: Rows) -> None:
    change = changed(before, after)
    if change is None:
        assert before == after
        return
    assert isinstance(change, Change)
    made = {**before, **change.set}
    for key in change.gone:
        del made[key]
    assert made == after
    assert all(before.get(key) != row for key, row in change.set.items())
