from hypothesis import given
from hypothesis import strategies as st

from tests.trace_proxy.recording import Proxy
from trace_proxy.queues.core_queue import CoreQueueBounds
from trace_proxy.relay.shared.pool import REFERENCE_WINDOW, Restarts


def restarts() -> Restarts:
    return Restarts(min_s=0.25, max_s=8, most=5, window_s=180)


def test_each_restart_within_the_window_waits_twice_as_long() -> None:
    times = restarts()
    assert [times.died(now_s) for now_s in (0, 1, 2, 3, 4)] == [0.25, 0.5, 1, 2, 4]


def test_after_so_many_within_the_window_there_is_none() -> None:
    times = restarts()
    for now_s in range(5):
        times.died(now_s)
    assert times.died(179) is None


def test_what_happened_before_the_window_is_forgotten() -> None:
    times = restarts()
    for now_s in range(5):
        times.died(now_s)
    assert times.died(1000) == 0.25


def test_no_wait_is_longer_than_the_longest() -> None:
    times = Restarts(min_s=1, max_s=3, most=10, window_s=100)
    assert [times.died(0) for _ in range(4)] == [1, 2, 3, 3]


@given(st.lists(st.floats(min_value=0, max_value=1000), max_size=40))
def test_never_more_restarts_than_allowed_in_any_window(moments_s: list[float]) -> None:
    times = Restarts(min_s=0.1, max_s=1, most=3, window_s=50)
    started = [now_s for now_s in sorted(moments_s) if times.died(now_s) is not None]
    for index in range(len(started) - 3):
        assert started[index + 3] - started[index] > 50


def test_the_reference_server_never_has_more_than_64_requests_to_answer() -> None:
    proxy = Proxy(queue=CoreQueueBounds(window=2048))
    proxy.core.start({"userAgent": "x/1", "codexHome": "/h"})
    clients = [proxy.client() for _ in range(100)]

    for client in clients:
        client.request(1, "model/list")

    assert len(proxy.core.got()) == REFERENCE_WINDOW


def test_a_client_of_the_reference_server_has_half_of_its_window_and_all_others_are_served() -> (
    None
):
    proxy = Proxy(queue=CoreQueueBounds(window=2048))
    proxy.core.start({"userAgent": "x/1", "codexHome": "/h"})
    stuck, neighbour = proxy.client(), proxy.client()

    for number in range(100):
        stuck.request(number, "model/list")
    assert len(proxy.core.got()) == REFERENCE_WINDOW // 2
    for number in range(100):
        neighbour.request(number, "model/list")
        (asked,) = proxy.core.got()
        proxy.core.answer(asked["id"], {})
        (answer,) = neighbour.heard()
        assert answer["id"] == number


def test_a_client_that_leaves_and_comes_back_does_not_get_its_places_back() -> None:
    proxy = Proxy(queue=CoreQueueBounds(window=4))
    proxy.core.start({"userAgent": "x/1", "codexHome": "/h"})
    stuck, neighbour = proxy.client(), proxy.client()
    for number in range(9):
        stuck.request(number, "model/list")
    asked = proxy.core.got()
    assert len(asked) == 2
    stuck.leave()
    for number in range(3):
        neighbour.request(number, "model/list")
    (first,) = proxy.core.got()

    proxy.core.answer(asked[0]["id"], {})
    proxy.core.answer(asked[1]["id"], {})
    assert len(proxy.core.got()) == 1
    assert neighbour.heard() == []
    proxy.core.answer(first["id"], {})
    assert len(proxy.core.got()) == 1
    assert proxy.core.session.queue.outstanding == 2


def test_a_core_that_says_its_name_has_no_such_window() -> None:
    proxy = Proxy(queue=CoreQueueBounds(window=2048))
    proxy.core.start({"userAgent": "x/1", "codexHome": "/h", "serverInfo": {"name": "core"}})
    clients = proxy.client(), proxy.client()

    for number in range(50):
        for client in clients:
            client.request(number, "model/list")

    assert len(proxy.core.got()) == 100
