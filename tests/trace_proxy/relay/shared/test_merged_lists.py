"""One list out of several cores."""

import json

from tests.trace_proxy.recording import Core, Json, Proxy
from trace_proxy.queues.core_queue import CoreQueueBounds


def pool() -> Proxy:
    """Two cores; thread `a` lives at the first, `b` at the second."""
    proxy = Proxy(cores=2).up()
    for name, core in zip("ab", proxy.cores, strict=True):
        proxy.thread(proxy.client("owner"), name, core)
    return proxy


def asked(core: Core) -> Json:
    (message,) = core.got()
    return message


def listing(*threads: Json) -> Json:
    return {"data": list(threads), "nextCursor": "opaque", "extra": 1}


def test_loaded_threads_are_the_union_in_pages() -> None:
    proxy = pool()
    client = proxy.client()
    pages = []
    for params in ({"limit": 2}, {"limit": 2, "cursor": "b"}, {"cursor": "b"}, {"limit": "x"}):
        client.request(1, "thread/loaded/list", params)
        for core, data in zip(proxy.cores, (["d", "a"], ["b", "c"]), strict=True):
            core.answer(asked(core)["id"], {"data": data, "nextCursor": None})
        pages.append(client.heard()[0]["result"])
    assert pages == [
        {"data": ["a", "b"], "nextCursor": "b"},
        {"data": ["c", "d"], "nextCursor": None},
        {"data": ["c", "d"], "nextCursor": None},
        {"data": ["a", "b", "c", "d"], "nextCursor": None},
    ]
    assert proxy.hub.board.in_flight == 0
    assert client.connection.in_flight == {}


def test_a_cursor_stays_valid_when_its_thread_has_gone() -> None:
    proxy = pool()
    client = proxy.client()
    client.request(1, "thread/loaded/list", {"cursor": "b", "limit": 1})
    for core, data in zip(proxy.cores, (["a"], ["c", "d"]), strict=True):
        core.answer(asked(core)["id"], {"data": data})
    assert client.heard()[0]["result"] == {"data": ["c"], "nextCursor": "c"}


def test_what_one_core_says_of_anothers_thread_is_corrected() -> None:
    proxy = pool()
    client = proxy.client(experimental=True)
    proxy.turn(client, "b")
    client.request(1, "thread/list", {"limit": 5})
    listed = proxy.cores[0]
    message = asked(listed)
    assert message["params"] == {"limit": 5}
    cold = {"type": "notLoaded"}
    threads = [{"id": each, "status": cold, "x": 1.0} for each in ("a", "b", "old")]
    listed.answer(message["id"], listing(*threads))
    active = {"type": "active", "activeFlags": []}
    told = client.heard()[0]["result"]
    assert told == listing(threads[0], {**threads[1], "status": active}, threads[2])

    proxy.cores[1].ask(0, "item/tool/call", {"threadId": "b"})
    client.request(2, "thread/search", {})
    found = [{"snippet": "s", "thread": each} for each in threads]
    listed.answer(asked(listed)["id"], listing(*found))
    waiting = {"type": "active", "activeFlags": ["waitingOnApproval"]}
    corrected = {"snippet": "s", "thread": {**threads[1], "status": waiting}}
    assert client.heard()[0]["result"] == listing(found[0], corrected, found[2])

    proxy.cores[1].notify("turn/completed", {"threadId": "b", "turn": {"id": "u"}})
    client.request(3, "thread/list", {})
    busy = next(core for core in proxy.cores if (got := core.got()) and (message := got[0]))
    busy.answer(message["id"], listing(threads[1]))
    assert client.heard()[0]["result"]["data"][0]["status"]["type"] in ("idle", "notLoaded")


def test_a_list_of_another_shape_is_passed_on() -> None:
    proxy = pool()
    client = proxy.client()
    for result in ({"data": [5]}, {"other": 1}, [1]):
        client.request(1, "thread/list", {})
        proxy.cores[0].answer(asked(proxy.cores[0])["id"], result)
        assert client.heard() == [{"id": 1, "result": result}]


def test_an_error_of_the_core_is_the_answer() -> None:
    proxy = pool()
    client = proxy.client()
    client.request(1, "thread/list", {})
    proxy.cores[0].fail(asked(proxy.cores[0])["id"], -32602, "bad cursor")
    client.request(2, "thread/loaded/list", {})
    for core in proxy.cores:
        core.fail(asked(core)["id"], -32601, "no such method")
    one, two = client.heard()
    assert (one["id"], one["error"]) == (1, {"code": -32602, "message": "bad cursor"})
    assert (two["id"], two["error"]) == (2, {"code": -32601, "message": "no such method"})
    assert proxy.effects.calls[-2:] == [
        ("thread/list", "-32602"),
        ("thread/loaded/list", "-32601"),
    ]


def test_who_is_left_answers_and_when_nobody_is_the_client_is_told() -> None:
    proxy = pool()
    client = proxy.client()
    client.request(1, "thread/loaded/list", {})
    first, second = proxy.cores
    first.answer(asked(first)["id"], {"data": ["a"]})
    second.die()
    client.request(2, "thread/loaded/list", {})
    client.request(3, "thread/list", {})
    first.die()
    client.request(4, "thread/list", {})
    heard = {each["id"]: each for each in client.heard()}
    assert heard[1]["result"] == {"data": ["a"], "nextCursor": None}
    assert [heard[n]["error"]["code"] for n in (2, 3, 4)] == [-32003] * 3
    assert proxy.hub.board.in_flight == 0


def test_a_client_that_left_hears_nothing() -> None:
    proxy = pool()
    client = proxy.client()
    client.request(1, "thread/loaded/list", {})
    client.request(2, "thread/list", {})
    client.leave()
    for core in proxy.cores:
        for message in core.got():
            core.answer(message["id"], {"data": []})
    client = proxy.client()
    client.request(2, "thread/list", {})
    client.leave()
    for core in proxy.cores:
        core.die()
    assert client.key not in proxy.effects.sent
    assert proxy.hub.board.in_flight == 0


def test_a_list_is_counted_as_its_client_and_not_as_the_proxy() -> None:
    proxy = Proxy(cores=2, queue=CoreQueueBounds(window=4)).up()
    stuck, neighbour = proxy.client(), proxy.client()
    for number in range(5):
        stuck.request(number, "thread/loaded/list", {})
    assert [len(core.got()) for core in proxy.cores] == [2, 2], "its share of each"

    neighbour.request(1, "thread/loaded/list", {})
    for core in proxy.cores:
        core.answer(asked(core)["id"], {"data": ["a"]})
    assert neighbour.heard()[0]["result"] == {"data": ["a"], "nextCursor": None}
    stuck.leave()
    assert [len(core.session.queue) for core in proxy.cores] == [0, 0]
    assert [len(core.session.router) for core in proxy.cores] == [2, 2]
    assert proxy.hub.board.in_flight == 0


def test_with_one_core_lists_are_its_own() -> None:
    proxy = Proxy().up()
    client = proxy.client()
    client.request(1, "thread/loaded/list", {"limit": 5})
    assert json.loads(proxy.core.got_raw()[0])["params"] == {"limit": 5}
