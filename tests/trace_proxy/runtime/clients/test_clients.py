"""Who is cut and when, and who is to be read more slowly."""

import asyncio

import pytest

from tests.trace_proxy.recording import NO_CONTEXT, Proxy
from tests.trace_proxy.runtime.clients.slow_peer import Peer
from trace_proxy.runtime.clients import intake as shell
from trace_proxy.runtime.clients.clients import Clients
from trace_proxy.runtime.clients.intake import Intake
from trace_proxy.runtime.telemetry.metrics.metrics import Metrics
from trace_proxy.settings.limits import Limits
from trace_proxy.state.connection import Connection
from trace_proxy.state.connection import Peer as Origin

LIMITS = Limits(max_client_queues_bytes=1, max_in_flight_per_connection=1)
"""All queues together hold a byte, each of them enough; a client may have one request."""


class Door:
    """Clients, and a hub that they speak to."""

    def __init__(self) -> None:
        metrics = Metrics()
        self.clients = Clients(LIMITS, metrics, lambda: None)
        self.hub = Proxy().hub
        self.intake = Intake(self.hub, self.clients, metrics, LIMITS)

    def connect(self) -> tuple[Connection, Peer]:
        """Somebody is connected."""
        connection = self.hub.opened(Origin("tcp", "127.0.0.1"), NO_CONTEXT)
        return connection, self.clients.add(connection.key, Peer)


async def test_what_was_not_offered_to_a_client_yet_cuts_nobody() -> None:
    door = Door()
    opened, client = door.connect()
    door.clients.send(opened, b"one")
    door.clients.send(opened, b"two")
    door.clients.look_after(0.0)
    assert client.closing is None
    client.read()
    assert client.got == b"onetwo"


async def test_what_one_call_queues_is_written_when_it_is_through() -> None:
    door = Door()
    opened, client = door.connect()
    door.clients.send(opened, b"before ")

    def answer_twice() -> None:
        door.clients.send(opened, b"one")
        door.clients.send(opened, b"two")
        client.read()
        assert client.got == b""

    door.clients.join(answer_twice)
    client.read()
    assert client.got == b"before onetwo"


async def test_what_a_call_queued_before_it_failed_is_written_too() -> None:
    door = Door()
    opened, client = door.connect()

    def fail() -> None:
        door.clients.send(opened, b"one")
        raise KeyError

    with pytest.raises(KeyError):
        door.clients.join(fail)
    door.clients.send(opened, b"two")
    await asyncio.sleep(0)
    client.read()
    assert client.got == b"onetwo"


class Silent(Peer):
    """One that answers pings when a test says so."""

    last_s = 0.0
    pings = 0

    @property
    def heard_at_s(self) -> float:
        return self.last_s

    def ping(self) -> None:
        self.pings += 1


@pytest.mark.parametrize("after_s", [0.0, 0.001, LIMITS.ping_timeout_s])
async def test_who_answers_pings_is_there_however_soon_it_answers(after_s: float) -> None:
    """The loop's clock has milliseconds: a pong may come at the time of its ping."""
    door = Door()
    client = door.clients.add(1, Silent)
    now_s = 0.0
    for ping in range(1, 5):
        now_s += LIMITS.ping_interval_s
        door.clients.look_after(now_s)
        assert client.pings == ping
        now_s = client.last_s = now_s + after_s
        door.clients.look_after(now_s)
    assert (client.pings, client.aborted_at_s) == (4, None)


async def test_who_does_not_is_given_up() -> None:
    door = Door()
    client = door.clients.add(1, Silent)
    pinged_s = LIMITS.ping_interval_s
    door.clients.look_after(pinged_s)
    door.clients.look_after(pinged_s + LIMITS.ping_timeout_s - 0.1)
    assert client.aborted_at_s is None
    door.clients.look_after(pinged_s + LIMITS.ping_timeout_s)
    assert (client.pings, client.aborted_at_s is None) == (1, False)


async def test_the_largest_queue_goes_when_all_are_too_large() -> None:
    door = Door()
    opened, client = door.connect()
    for message in (b"x" * 1000, b"one", b"two"):
        door.clients.send(opened, message)
        door.clients.look_after(0.0)
    assert client.closing == (1013, "too slow: reconnect and resume")


async def test_who_has_all_under_way_that_it_may_is_full() -> None:
    door = Door()
    opened, client = door.connect()
    said = [b'{"method":"initialized"}']
    assert not door.intake.messages(client, said)
    door.hub.board.admission.admit(opened.load, 1)
    assert door.intake.messages(client, said)
    door.hub.board.admission.release(opened.load, 1)
    assert not door.intake.messages(client, said)


async def test_the_only_client_is_alone() -> None:
    door = Door()
    _, client = door.connect()
    assert door.intake.alone(client)


async def test_nobody_is_alone_while_others_speak(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Door()
    (_, one), (_, other) = door.connect(), door.connect()
    for client in (one, other, one):
        door.intake.messages(client, [b'{"method":"initialized"}'])
    assert not door.intake.alone(one)
    assert not door.intake.alone(other)
    monkeypatch.setattr(shell, "LATELY_S", -1.0)  # all of that was long ago
    assert door.intake.alone(one)
    assert not door.intake.alone(other)
