"""Who is cut and when, and who is to be read more slowly."""

from collections.abc import AsyncIterator

import pytest

from tests.trace_proxy.recording import NO_CONTEXT
from tests.trace_proxy.runtime.clients.slow_peer import Peer
from tests.trace_proxy.runtime.telemetry.telemetry_fixtures import clean_environment, telemetry
from trace_proxy.runtime import supervisor as shell
from trace_proxy.runtime.supervisor import Supervisor
from trace_proxy.settings.config import Config, Limits
from trace_proxy.state.connection import Connection
from trace_proxy.state.connection import Peer as Origin


@pytest.fixture
async def supervisor(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Supervisor]:
    """All queues together hold a byte, each of them enough; a client may have one request."""
    clean_environment(monkeypatch)
    exporter = telemetry(monkeypatch)
    config = Config(limits=Limits(max_client_queues_bytes=1, max_in_flight_per_connection=1))
    yield Supervisor(config, exporter, version="1.2.3")
    await exporter.shutdown(1)


def connect(supervisor: Supervisor) -> tuple[Connection, Peer]:
    return supervisor.open(Peer, Origin("tcp", "127.0.0.1"), NO_CONTEXT)


async def test_what_was_not_offered_to_a_client_yet_cuts_nobody(supervisor: Supervisor) -> None:
    opened, client = connect(supervisor)
    supervisor.send(opened, b"one")
    supervisor.send(opened, b"two")
    supervisor.cut_the_slow(0.0)
    assert client.closing is None
    client.read()
    assert client.got == b"onetwo"


async def test_the_largest_queue_goes_when_all_are_too_large(supervisor: Supervisor) -> None:
    opened, client = connect(supervisor)
    for message in (b"x" * 1000, b"one", b"two"):
        supervisor.send(opened, message)
        supervisor.cut_the_slow(0.0)
    assert client.closing == (1013, "too slow: reconnect and resume")


async def test_who_has_all_under_way_that_it_may_is_full(supervisor: Supervisor) -> None:
    opened, client = connect(supervisor)
    said = [b'{"method":"initialized"}']
    assert not supervisor.messages(client, said)
    supervisor.hub.board.admission.admit(opened.load, 1)
    assert supervisor.messages(client, said)
    supervisor.hub.board.admission.release(opened.load, 1)
    assert not supervisor.messages(client, said)


async def test_the_only_client_is_alone(supervisor: Supervisor) -> None:
    _, client = connect(supervisor)
    assert supervisor.alone(client)


async def test_nobody_is_alone_while_others_speak(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    (_, one), (_, other) = connect(supervisor), connect(supervisor)
    for client in (one, other, one):
        supervisor.messages(client, [b'{"method":"initialized"}'])
    assert not supervisor.alone(one)
    assert not supervisor.alone(other)
    monkeypatch.setattr(shell, "LATELY_S", -1.0)  # all of that was long ago
    assert supervisor.alone(one)
    assert not supervisor.alone(other)
