"""Several cores: placed, lost, restarted, given up; nobody else notices."""

import pytest

from tests.trace_proxy.recording import Client, Core, Json, Proxy
from trace_proxy.drain import Drain
from trace_proxy.relay.shared.pool import RESUMES_AT_ONCE
from trace_proxy.state.core_session import CoreState


def start_thread(proxy: Proxy, client: Client, thread: str) -> Core:
    """Let a client start a thread wherever it is placed; returns its core."""
    client.request("s", "thread/start")
    (core, asked) = next((core, got[0]) for core in proxy.cores if (got := core.got()))
    core.answer(asked["id"], {"thread": {"id": thread}})
    client.heard()
    return core


def restart(core: Core) -> list[Json]:
    """Let a core come back; returns what it is asked before anybody else may."""
    core.start(greet=False)
    hello = core.got()[0]
    core.answer(hello["id"], {})
    initialized, *asked = core.got()
    assert initialized == {"method": "initialized"}
    return asked


def test_threads_go_where_there_is_least_to_do_and_stay() -> None:
    proxy = Proxy(cores=3).up()
    client = proxy.client()
    homes = [start_thread(proxy, client, f"t{n}").session.index for n in range(6)]
    assert homes == [0, 1, 2, 0, 1, 2]
    proxy.turn(client, "t0")
    assert start_thread(proxy, client, "t6").session.index == 1, "a turn weighs more"
    for method in ("thread/read", "turn/start", "thread/name/set", "x/y"):
        client.request(1, method, {"threadId": "t4"})
    assert len(proxy.cores[1].got()) == 4


def test_a_resume_of_a_thread_without_a_home_gives_it_one_for_all_who_ask() -> None:
    proxy = Proxy(cores=2).up()
    one, two = proxy.client(), proxy.client()
    one.request(1, "thread/resume", {"threadId": "old"})
    two.request(1, "thread/resume", {"threadId": "old"})
    first, second = proxy.cores
    one_asks, two_asks = first.got()
    assert second.got() == []
    first.fail(one_asks["id"], -32600, "no")
    assert proxy.hub.board.placement.home("old") is first.session
    first.answer(two_asks["id"], {"thread": {"id": "old"}})
    assert proxy.hub.board.placement.home("old") is first.session
    assert two.connection.threads == {"old"}
    assert one.connection.threads == set()

    one.request(2, "thread/resume", {"threadId": "unknown"})
    second.fail(second.got()[0]["id"], -32600, "no")
    assert proxy.hub.board.placement.home("unknown") is None


def test_a_crash_answers_once_ends_turns_and_resolves_questions() -> None:
    proxy = Proxy(cores=2).up()
    client, other = proxy.client(), proxy.client()
    core = start_thread(proxy, client, "t")
    proxy.turn(client, "t")
    core.ask(3, "item/tool/call", {"threadId": "t"})
    client.request(1, "model/list", {"threadId": "t"})
    other.request(1, "model/list")
    (survivor,) = proxy.cores[1].got()
    (lost,) = core.got()
    client.heard()
    assert core.die(100.0) == 0.25

    now_s = proxy.now_ns // 10**9
    error, completed, resolved = client.heard()
    assert error == {
        "error": {
            "code": -32003,
            "message": "The core died before it answered; try again.",
            "data": {"reason": "coreLost", "retryable": True},
        },
        "id": 1,
    }
    assert completed["method"] == "turn/completed"
    assert completed["params"] == {
        "threadId": "t",
        "turn": {
            "id": "u",
            "rootTurnId": "u",
            "items": [],
            "itemsView": "notLoaded",
            "status": "interrupted",
            "error": None,
            "startedAt": now_s,
            "completedAt": now_s,
            "durationMs": completed["params"]["turn"]["durationMs"],
        },
        "synthesized": True,
    }
    assert resolved["params"] == {"threadId": "t", "requestId": 0}
    proxy.cores[1].answer(survivor["id"], {})
    assert [each["id"] for each in other.heard()] == [1]
    turn = proxy.spans()[-2]
    assert turn.attributes["error.type"] == "core_lost"
    restart(core)
    assert core.say({"id": lost["id"], "result": {}}) != "", "an older epoch is over"


def test_threads_are_back_before_anybody_else_may_ask() -> None:
    proxy = Proxy().up()
    client, gone = proxy.client(), proxy.client()
    start_thread(proxy, client, "heard")
    start_thread(proxy, gone, "unheard")
    gone.leave()
    proxy.core.die()
    client.request(1, "turn/start", {"threadId": "heard"})
    (resume,) = restart(proxy.core)
    assert resume["method"] == "thread/resume"
    assert resume["params"] == {"threadId": "heard", "excludeTurns": True}
    assert proxy.core.session.state is CoreState.STARTING
    proxy.core.answer(resume["id"], {"thread": {"id": "heard"}})
    usage = {"threadId": "heard", "turnId": "old"}
    proxy.core.notify("thread/tokenUsage/updated", usage)
    assert [each["method"] for each in proxy.core.got()] == ["turn/start"]
    assert client.heard() == [], "the replay was for us"
    assert proxy.effects.ready == [0, 0]


def test_threads_return_a_few_at_a_time() -> None:
    proxy = Proxy().up()
    client = proxy.client()
    for number in range(RESUMES_AT_ONCE + 5):
        start_thread(proxy, client, f"t{number}")
    proxy.core.die()
    asked = restart(proxy.core)
    assert len(asked) == RESUMES_AT_ONCE
    for each in asked[:5]:
        proxy.core.answer(each["id"], {})
    more = proxy.core.got()
    assert len(more) == 5
    for each in asked[5:] + more[:-1]:
        proxy.core.answer(each["id"], {})
    assert proxy.effects.ready == [0]
    proxy.core.answer(more[-1]["id"], {})
    assert proxy.effects.ready == [0, 0]


def test_a_thread_that_does_not_return_is_closed_for_who_heard_it() -> None:
    proxy = Proxy().up()
    client = proxy.client()
    start_thread(proxy, client, "t")
    proxy.core.die()
    (resume,) = restart(proxy.core)
    proxy.core.fail(resume["id"], -32600, "no rollout found")
    (closed,) = client.heard()
    assert (closed["method"], closed["params"]) == ("thread/closed", {"threadId": "t"})
    assert client.connection.threads == set()
    assert "core.thread_lost" in proxy.effects.logged
    assert proxy.core.session.state is CoreState.READY


def test_a_crash_while_threads_return_starts_over() -> None:
    proxy = Proxy().up()
    client = proxy.client()
    start_thread(proxy, client, "t")
    proxy.core.die()
    restart(proxy.core)
    proxy.core.die()
    (resume,) = restart(proxy.core)
    proxy.core.answer(resume["id"], {})
    assert proxy.core.session.state is CoreState.READY


def test_a_thread_moves_when_its_home_has_failed_for_good() -> None:
    proxy = Proxy(cores=2, most_restarts=0).up()
    client = proxy.client()
    start_thread(proxy, client, "t")
    start_thread(proxy, client, "elsewhere")
    first, second = proxy.cores
    assert first.die() is None
    client.request(1, "turn/start", {"threadId": "t"})
    resume, turn = second.got()
    assert (resume["method"], turn["method"]) == ("thread/resume", "turn/start")
    second.answer(resume["id"], {"thread": {"id": "t"}})
    assert second.session.threads == 2
    assert second.die() is None
    assert proxy.hub.pool.failed
    client.heard()
    client.request(2, "turn/start", {"threadId": "t"})
    (refused,) = client.heard()
    assert refused["error"]["code"] == -32003
    assert proxy.hub.board.placement.home("t") is None


@pytest.mark.parametrize("greeted", [False, True])
def test_a_thread_moves_to_a_core_that_is_starting(greeted: bool) -> None:  # noqa: FBT001
    proxy = Proxy(cores=2, most_restarts=1).up()
    client = proxy.client()
    start_thread(proxy, client, "a")
    start_thread(proxy, client, "b")
    first, second = proxy.cores
    assert first.die() is not None
    assert second.die() is not None
    asked = []
    if greeted:
        asked = restart(second)
    first.start(greet=False)
    first.got()
    assert first.die() is None
    if not greeted:
        asked = restart(second)
    for each in asked:
        second.answer(each["id"], {})
    for each in second.got():
        asked.append(each)
        second.answer(each["id"], {})
    assert sorted(each["params"]["threadId"] for each in asked) == ["a", "b"]
    assert second.session.state is CoreState.READY


def test_nothing_restarts_while_draining() -> None:
    drain = Drain(timeout_s=0)
    proxy = Proxy(drain=drain).up()
    client = proxy.client()
    start_thread(proxy, client, "t")
    drain.signal("TERM", 0)
    assert proxy.core.die() is None
    client.request(1, "thread/read", {"threadId": "t"})
    assert client.heard()[0]["error"]["code"] == -32003
    assert proxy.hub.board.in_flight == 0


def test_a_core_that_cannot_greet_serves_all_the_same() -> None:
    proxy = Proxy()
    proxy.core.start(greet=False)
    proxy.core.fail(proxy.core.got()[0]["id"], -32601, "method not found")
    assert proxy.core.session.state is CoreState.READY
    assert proxy.core.session.greeting == b"{}"


def test_the_repr_tells_the_state() -> None:
    proxy = Proxy().up()
    client = proxy.client("tui")
    start_thread(proxy, client, "t")
    proxy.turn(client, "t")
    client.request(1, "model/list")
    core = "<Core 0 READY epoch=1 in_flight=1 threads=1 turns=1>"
    board = (
        "<Board <Drain SERVING turns=0 requests=0 exit_code=0> connections=1 in_flight=1 turns=1>"
    )
    assert repr(proxy.hub) == f"<Hub {board} <Pool [{core}]>>"
    assert repr(client.connection) == "<Connection 0 tui in_flight=1 threads=1>"
    assert (
        repr(proxy.connect().connection) == "<Connection 1 not initialized in_flight=0 threads=0>"
    )
