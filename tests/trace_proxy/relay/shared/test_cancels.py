"""Requests that name another request's id: only one's own can be meant."""

import pytest

from tests.trace_proxy.recording import Proxy
from trace_proxy.protocol import methods


@pytest.mark.parametrize("method", sorted(methods.CANCELS))
@pytest.mark.parametrize("request_id", [7, "7", "a"])
def test_a_cancel_reaches_the_request_of_its_own_client_and_no_other(
    method: str, request_id: int | str
) -> None:
    proxy = Proxy().up()
    one, two = proxy.client(experimental=True), proxy.client(experimental=True)
    for client in (one, two):
        client.request(request_id, "model/list")
    first, second = (each["id"] for each in proxy.core.got())
    two.request("cancel", method, {"requestId": request_id, "x": 1})
    (cancel,) = proxy.core.got()
    assert cancel["params"] == {"requestId": second, "x": 1}
    assert first != second


@pytest.mark.parametrize("method", sorted(methods.CANCELS))
def test_no_guess_cancels_what_others_asked(method: str) -> None:
    proxy = Proxy().up()
    victim, guesser = proxy.client(experimental=True), proxy.client(experimental=True)
    for number in range(20):
        victim.request(number, "model/list")
    given = proxy.core.got()
    for number in range(200):
        guesser.request(f"c{number}", method, {"requestId": number})
    assert given
    assert proxy.core.got() == []
    assert [each["result"] for each in guesser.heard()] == [{}] * 200
    assert proxy.hub.board.in_flight == 20


@pytest.mark.parametrize("method", sorted(methods.CANCELS))
@pytest.mark.parametrize("guess", [1.0, 1.5, [1], {"id": 1}, True])
def test_what_can_be_no_id_is_refused_here(method: str, guess: object) -> None:
    proxy = Proxy().up()
    client = proxy.client(experimental=True)
    client.request("c", method, {"requestId": guess})
    assert proxy.core.got() == []
    assert [each["error"]["code"] for each in client.heard()] == [-32600]


@pytest.mark.parametrize("params", [{}, {"requestId": None}, [1]])
def test_what_names_no_request_is_the_cores_to_refuse(params: object) -> None:
    proxy = Proxy().up()
    client = proxy.client(experimental=True)
    client.request(1, "thread/search/cancel", params)
    assert proxy.core.got()[-1]["params"] == params


def test_a_part_of_an_answer_is_for_who_asked_under_its_id() -> None:
    proxy = Proxy().up()
    asker, other = proxy.client(experimental=True), proxy.client(experimental=True)
    asker.request("mine", "thread/search/stream", {"searchTerm": "x"})
    core_id = proxy.core.got()[-1]["id"]
    proxy.core.notify("thread/search/partial", {"requestId": core_id, "data": []})
    (heard,) = asker.heard()
    assert heard["params"] == {"requestId": "mine", "data": []}
    assert other.heard() == []
    proxy.core.notify("thread/search/partial", {"requestId": 999, "data": []})
    assert proxy.effects.dropped_notifications == 1


NOTES = sorted(methods.CANCEL_NOTES.items())


@pytest.mark.parametrize(("method", "member"), NOTES)
@pytest.mark.parametrize("request_id", [7, "7", "a"])
def test_a_notification_cancels_ones_own_request_at_the_core_that_has_it(
    method: str, member: str, request_id: int | str
) -> None:
    proxy = Proxy(cores=2).up()
    one, two = proxy.client(), proxy.client()
    for client in (one, two):
        client.request(request_id, "model/list")
    given = [(core, each["id"]) for core in proxy.cores for each in core.got()]
    two.say({"method": method, "params": {member: request_id, "reason": "x"}})
    told = [(core, each["params"]) for core in proxy.cores for each in core.got()]
    assert len(told) == 1
    core, params = told[0]
    assert params["reason"] == "x"
    assert (core, params[member]) == given[-1]


@pytest.mark.parametrize(("method", "member"), NOTES)
def test_no_guess_of_a_notification_cancels_what_others_asked(method: str, member: str) -> None:
    proxy = Proxy().up()
    victim, guesser = proxy.client(), proxy.client()
    for number in range(20):
        victim.request(number, "model/list")
    assert len(proxy.core.got()) == 20
    for guess in (*range(200), "1", "a", 1.0, 1.5, None, [1], {"id": 1}, True):
        guesser.say({"method": method, "params": {member: guess}})
    twice = f'{{"method":"{method}","params":{{"{member}":2,"{member}":99}}}}'
    guesser.raw(twice.encode())
    guesser.say({"method": method, "params": [1]})
    guesser.say({"method": method})
    assert proxy.core.got() == []
    assert proxy.hub.board.in_flight == 20
