"""Handles that clients choose: unique towards the core, their own towards them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trace_proxy.recording import Proxy
from trace_proxy.protocol.methods import HANDLES
from trace_proxy.relay.shared import requests
from trace_proxy.state import handles

FAMILIES = [
    ("command/exec", "processId", "command/exec/outputDelta", "command/exec/terminate"),
    ("process/spawn", "processHandle", "process/outputDelta", "process/kill"),
    ("fs/watch", "watchId", "fs/changed", "fs/unwatch"),
    (
        "fuzzyFileSearch/sessionStart",
        "sessionId",
        "fuzzyFileSearch/sessionUpdated",
        "fuzzyFileSearch/sessionStop",
    ),
]


@pytest.mark.parametrize(("opens", "field", "output", "closes"), FAMILIES)
def test_two_clients_may_choose_the_same_handle(
    opens: str, field: str, output: str, closes: str
) -> None:
    proxy = Proxy().up()
    one, two = proxy.client(experimental=True), proxy.client(experimental=True)
    for client in (one, two):
        client.request(1, opens, {field: "p1", "x": 1})
    asked = proxy.core.got()
    names = [each["params"][field] for each in asked]
    assert names == [f"{one.key}/p1", f"{two.key}/p1"]
    assert asked[0]["params"]["x"] == 1

    proxy.core.notify(output, {field: names[1], "data": "d"})
    assert one.heard() == []
    message = {"method": output, "params": {field: "p1", "data": "d"}, "emittedAtMs": 5}
    assert two.heard() == [message]

    one.leave()
    (closing,) = proxy.core.got()
    assert (closing["method"], closing["params"]) == (closes, {field: names[0]})
    proxy.core.answer(closing["id"], {})
    proxy.core.notify(output, {field: names[0]})
    proxy.core.notify(output, {field: "77/p1"})
    proxy.core.notify(output, {field: "p1"})
    proxy.core.notify(output, {field: "x/p1"})
    proxy.core.notify(output, {field: 5})
    proxy.core.notify(output, [])
    assert two.heard() == []
    assert proxy.effects.dropped_notifications == 6


def test_a_handle_in_an_error_is_restored_and_output_is_left_alone() -> None:
    proxy = Proxy().up()
    for _ in range(3):
        proxy.connect()
    client = proxy.client()
    assert client.key == 3
    client.request(1, "command/exec", {"processId": "p"})
    client.request(2, "command/exec/terminate", {"processId": "p"})
    first, second = proxy.core.got()
    text = 'no active process "3/p" (3/p), see /lib3/python and 13/p'
    proxy.core.fail(second["id"], -32600, text)
    result = {"stdout": "/usr/lib3/python 3/p", "handle": "3/p"}
    proxy.core.answer(first["id"], result)

    failed, done = client.heard()
    assert failed["error"]["message"] == 'no active process "p" (p), see /lib3/python and 13/p'
    assert done["result"] == {"stdout": "/usr/lib3/python 3/p", "handle": "p"}


@pytest.mark.parametrize("params", [{}, {"processId": None}, {"processId": 5}, [1]])
def test_params_without_a_handle_pass_as_they_are(params: object) -> None:
    proxy = Proxy().up()
    client = proxy.client()
    client.say({"id": 1, "method": "command/exec", "params": params})
    assert proxy.core.got()[0]["params"] == params
    client.leave()
    assert proxy.core.got() == []


def test_a_command_is_forgotten_when_it_has_ended() -> None:
    proxy = Proxy().up()
    client = proxy.client()
    client.request(1, "command/exec", {"processId": "p"})
    proxy.core.answer(proxy.core.got()[0]["id"], {"exitCode": 0})
    assert client.connection.handles == {}
    client.leave()
    assert proxy.core.got() == []


def test_a_handle_ends_when_it_is_closed_refused_or_exits() -> None:
    proxy = Proxy().up()
    client = proxy.client(experimental=True)

    def ask(method: str, field: str, *, fails: bool = False) -> None:
        client.request(1, method, {field: "h"})
        core_id = proxy.core.got()[0]["id"]
        if fails:
            proxy.core.fail(core_id, -32600, "no")
        else:
            proxy.core.answer(core_id, {})

    ask("fs/watch", "watchId", fails=True)
    assert client.connection.handles == {}
    ask("fs/watch", "watchId")
    assert client.connection.handles == {("fs/watch", "h"): 0}
    ask("fs/unwatch", "watchId", fails=True)
    assert client.connection.handles == {("fs/watch", "h"): 0}
    ask("fs/watch", "watchId", fails=True)
    assert client.connection.handles == {("fs/watch", "h"): 0}, "the first still watches"
    ask("fs/unwatch", "watchId")
    assert client.connection.handles == {}
    ask("process/spawn", "processHandle")
    proxy.core.notify("process/exited", {"processHandle": f"{client.key}/h", "exitCode": 0})
    assert client.connection.handles == {}


def test_in_a_pool_a_handle_stays_with_its_core() -> None:
    proxy = Proxy(cores=2).up()
    client = proxy.client(experimental=True)
    client.request(1, "process/spawn", {"processHandle": "p"})
    first, second = proxy.cores
    (spawned,) = first.got()
    for request_id in range(2, 6):
        client.request(request_id, "process/writeStdin", {"processHandle": "p"})
    client.request(9, "process/spawn", {"processHandle": "p"})
    assert len(first.got()) == 5
    client.request(10, "process/spawn", {"processHandle": "q"})
    assert len(second.got()) == 1
    first.answer(spawned["id"], {})
    first.die()
    assert client.connection.handles == {("process/spawn", "q"): 1}
    client.leave()
    assert [each["method"] for each in second.got()] == ["process/kill"]


def test_handles_are_bounded() -> None:
    proxy = Proxy().up()
    client = proxy.client()
    for number in range(requests.HANDLES_PER_CONNECTION):
        client.request(1, "fs/watch", {"watchId": str(number)})
        proxy.core.answer(proxy.core.got()[0]["id"], {})
    client.heard()
    client.request(1, "fs/watch", {"watchId": "one more"})
    (refused,) = client.heard()
    assert refused["error"]["code"] == -32001
    client.request(1, "fs/unwatch", {"watchId": "0"})
    proxy.core.answer(proxy.core.got()[0]["id"], {})
    client.request(1, "fs/watch", {"watchId": "one more"})
    assert len(proxy.core.got()) == 1
    assert proxy.hub.board.in_flight == 1


@given(st.integers(0, 10**9), st.text(), st.sampled_from(sorted(HANDLES)))
def test_a_handle_comes_back_as_it_was_chosen(key: int, handle: str, method: str) -> None:
    field = HANDLES[method].field
    params = handles.closing_params(HANDLES[method], handle, key)
    assert handles.owner(method, params) is not None
    qualified = handles.qualify(method, _params(field, handle), key)
    assert qualified is not None
    assert qualified.params == params
    assert handles.owner(method, qualified.params) == (key, handle, _params(field, handle))


def _params(field: str, handle: str) -> bytes:
    return handles._ENCODE({field: handle})  # noqa: SLF001 - the same encoding
