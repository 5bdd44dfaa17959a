"""What comes and goes leaves nothing behind, and what is many slows nobody down."""

import gc
import sys
from collections.abc import Iterable
from types import FrameType
from typing import TYPE_CHECKING

import pytest

from tests.trace_proxy.recording import Proxy
from trace_proxy.queues.core_queue import CoreQueueBounds
from trace_proxy.state.connection import Pending

if TYPE_CHECKING:
    from _typeshed import TraceFunction

FEW, MANY = 1_000, 10_000


def sizes(proxy: Proxy) -> dict[str, int]:
    """How many entries every container of the hub's machines holds."""
    found: dict[str, int] = {}
    seen: set[int] = set()

    def look(name: str, thing: object, depth: int) -> None:
        if id(thing) in seen or depth > 4:
            return
        seen.add(id(thing))
        if isinstance(thing, dict | list | set | tuple):
            found[name] = len(thing)
            return
        module = type(thing).__module__
        if module.startswith("trace_proxy.") and not isinstance(thing, Pending):
            for attribute in _attributes(thing):
                look(f"{name}.{attribute}", getattr(thing, attribute, None), depth + 1)

    look("hub", proxy.hub, 0)
    for core in proxy.cores:
        look(f"core{core.session.index}", core.session, 0)
    return found


def _attributes(thing: object) -> Iterable[str]:
    slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
    return [*slots, *getattr(thing, "__dict__", {})]


def a_visit(proxy: Proxy, number: int, way: str) -> None:
    """A client with a thread, a turn, a tool, a question and a watch comes and goes."""
    client = proxy.client(strict=number % 2 == 0, experimental=number % 3 == 0)
    thread = proxy.thread(client, f"t{number}")
    proxy.turn(client, thread, f"u{number}")
    item = {"type": "commandExecution", "id": "i"}
    proxy.core.notify("item/started", {"threadId": thread, "turnId": f"u{number}", "item": item})
    proxy.core.ask(number, "item/tool/call", {"threadId": thread})
    client.request(1, "fs/watch", {"watchId": "w"})
    client.request(2, "thread/resume", {"threadId": thread})
    client.request(3, "thread/shellCommand", {"threadId": thread})
    client.request(4, "thread/compact/start", {"threadId": f"unknown{number}"})
    for asked in proxy.core.got():
        if asked["method"] == "thread/compact/start":
            proxy.core.fail(asked["id"], -32600, "thread not found")
        else:
            proxy.core.answer(asked["id"], {"thread": {"id": thread}, "model": "m"})
    if way != "unanswered":
        client.answer(number, {"decision": "accept"})
        proxy.core.notify("serverRequest/resolved", {"threadId": thread, "requestId": number})
        turn = {"id": f"u{number}", "status": "completed"}
        proxy.core.notify("turn/completed", {"threadId": thread, "turn": turn})
    client.leave()
    for asked in proxy.core.got():
        if "method" in asked:
            proxy.core.answer(asked["id"], {})
    proxy.core.notify("thread/closed", {"threadId": thread})
    proxy.effects.forget()


@pytest.mark.parametrize("visits", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("way", ["answered", "unanswered"])
def test_thousands_of_visits_leave_nothing_behind(way: str, visits: int) -> None:
    proxy = Proxy().up()
    for number in range(300):  # as many as are remembered of ended turns
        a_visit(proxy, number, way)
    before = sizes(proxy)
    gc.collect()
    objects = len(gc.get_objects())
    for number in range(300, 300 + visits):
        a_visit(proxy, number, way)
    gc.collect()

    assert sizes(proxy) == before
    assert len(gc.get_objects()) - objects < 200
    assert sum(before.values()) < 1_500


def calls_of(proxy: Proxy, number: int) -> int:
    """How many Python calls and lines one request, its answer and a delta take."""
    client = proxy.client()
    proxy.thread(client, f"mine{number}")
    steps = 0

    def count(_frame: FrameType, _event: str, _arg: object) -> "TraceFunction":
        nonlocal steps
        steps += 1
        return count

    delta = {"threadId": f"mine{number}", "turnId": "x", "itemId": "y", "delta": "z"}
    sys.settrace(count)
    try:
        client.request(1, "thread/read", {"threadId": f"mine{number}"})
        asked = proxy.core.got()[0]["id"]
        proxy.core.answer(asked, {})
        proxy.core.notify("item/agentMessage/delta", delta)
        proxy.core.notify("item/started", {**delta, "item": {}})
    finally:
        sys.settrace(None)
    return steps


def test_a_message_costs_the_same_however_many_clients_and_threads_there_are() -> None:
    proxy = Proxy(queue=CoreQueueBounds(window=1_000))
    proxy.core.start({"userAgent": "no reference server: it may have more than 64 requests"})
    alone = calls_of(proxy, 0)
    for number in range(1, 301):
        client = proxy.client()
        proxy.thread(client, f"t{number}")
        proxy.turn(client, f"t{number}", f"u{number}")
        proxy.core.ask(number, "item/tool/call", {"threadId": f"t{number}"})
        client.request("pending", "model/list")
        proxy.core.got()
    assert calls_of(proxy, 301) <= alone + 10
