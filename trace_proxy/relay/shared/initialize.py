"""`initialize`, once a connection towards clients and once an epoch towards a core.

A core knows one client: us. Clients are answered from what it said to us, each as if
the core had spoken to it alone; who comes before the first core is up waits here.
Where there is only one client ever, as in the wrapper on stdio, the core waits for its
`initialize` and hears that: cores name threads and sign requests with the name in it.
"""

from typing import Final

import msgspec

from core_server.jsonrpc import codec
from trace_proxy.protocol import envelope, refusal
from trace_proxy.protocol.refusal import Refusal
from trace_proxy.relay.board import Board
from trace_proxy.spans import requests as request_spans
from trace_proxy.state import gate
from trace_proxy.state.connection import Connection, Pending
from trace_proxy.state.core_session import CoreSession

GREETING_NOTIFICATIONS: Final = frozenset({"configWarning", "remoteControl/status/changed"})
"""What the reference sends to a connection right after its `initialize`."""

_REPEATED: Final = frozenset({"configWarning"})

GREETING_LINES: Final = 32
"""Notifications kept for later connections; the reference sends one to five."""

_WATCHING: Final = {"modelCalls": True}
"""A core that knows this capability tells of each request to its model; others ignore it."""

OUR_NAME: Final = "trace-proxy"

Document = dict[str, msgspec.Raw]


class Greetings:
    """Who is initialized, and with what answer.

    Args:
        board: The hub's.
        version: Ours.
        alone: Whether there is one client, whose greeting a core hears instead of ours.
    """

    def __init__(self, board: Board, version: str, *, alone: bool) -> None:
        self._board = board
        self._alone = alone
        self._params = None if alone else _ours(version)
        self._waiting: list[tuple[Connection, Pending]] = []
        self._lines: dict[tuple[str, bytes], bytes] = {}

    def __repr__(self) -> str:
        return f"<Greetings waiting={len(self._waiting)}>"

    def params(self) -> bytes | None:
        """What we say to a core; None until the one client has spoken."""
        return self._params

    def initialize(self, connection: Connection, pending: Pending, params: bytes | None) -> bool:
        """Open a client's session; answer now, or when the first core is up.

        Returns:
            Whether it is known only now what a core hears.
        """
        session = gate.open_session(params)
        if not isinstance(session, Refusal) and self._board.placement.choose() is None:
            session = refusal.NO_CORE
        if isinstance(session, Refusal):
            self._board.refuse(pending, session)
            return False
        connection.session = session
        request_spans.introduce(connection, pending)
        if session.opted_out:
            self._board.choosy += 1
        core = next((each for each in self._board.cores if each.greeting is not None), None)
        if core is None:
            connection.in_flight[id(pending)] = pending
            self._waiting.append((connection, pending))
            if self._params is None and params is not None:
                self._params = _theirs(params)
                return True
        else:
            self._welcome(connection, pending, core)
        return False

    def greeted(self, core: CoreSession) -> None:
        """A core is up: answer who waited for it."""
        waiting, self._waiting = self._waiting, []
        for connection, pending in waiting:
            if connection.in_flight.pop(id(pending), None) is not None:
                self._welcome(connection, pending, core)

    def give_up(self) -> None:
        """No core will ever be up: whoever waits for one may try again elsewhere."""
        waiting, self._waiting = self._waiting, []
        for connection, pending in waiting:
            if connection.in_flight.pop(id(pending), None) is not None:
                self._end_session(connection)
                self._board.refuse(pending, refusal.NO_CORE)

    def keep(self, method: str, line: bytes) -> bool:
        """Remember a notification that later connections must see too.

        Of a state the latest, of warnings each that differs.

        Returns:
            Whether it says something new: every core, and each when it is back, says
            the same once more.
        """
        name = (method, envelope.params_of(line) if method in _REPEATED else b"")
        before = self._lines.get(name)
        if before is None and len(self._lines) >= GREETING_LINES:
            del self._lines[next(iter(self._lines))]
        self._lines[name] = line
        return before is None or envelope.params_of(before) != envelope.params_of(line)

    def leave(self, connection: Connection) -> None:
        """A connection has left; its session ends."""
        self._end_session(connection)
        self._waiting = [pair for pair in self._waiting if pair[0] is not connection]

    def _end_session(self, connection: Connection) -> None:
        session, connection.session = connection.session, None
        if session is not None and session.opted_out:
            self._board.choosy -= 1

    def _welcome(self, connection: Connection, pending: Pending, core: CoreSession) -> None:
        board = self._board
        assert core.greeting is not None
        assert connection.session is not None
        result = core.greeting
        if not self._alone:
            result = _personal(result, connection.session)
        board.send(connection, codec.result(pending.id, result))
        board.settled(pending, core=core)
        if connection.peer.hop:  # it hears what it subscribes to: its clients have cores
            return
        board.initialized[connection.key] = connection
        board.effects.log(
            "connection.initialized",
            connection=connection.key,
            client=connection.session.client_name,
            version=connection.session.client_version,
        )
        for (method, _), line in self._lines.items():
            board.deliver((connection,), method, line)
        for asked in board.server_requests.of_thread(None):
            if asked.ask(connection):
                board.send(connection, asked.message())


def _ours(version: str) -> bytes:
    """One client that wants everything."""
    return msgspec.json.encode(
        {
            "clientInfo": {"name": OUR_NAME, "title": OUR_NAME, "version": version},
            "capabilities": {"experimentalApi": True, **_WATCHING},
        }
    )


def _theirs(params: bytes) -> bytes:
    """The client's own, but that it opts out of nothing: we watch, and leave out for it."""
    document = msgspec.json.decode(params, type=Document)
    given = msgspec.json.decode(document.get("capabilities", b"null"), type=Document | None)
    capabilities: dict[str, object] = {**(given or {}), **_WATCHING}
    capabilities.pop("optOutNotificationMethods", None)
    document["capabilities"] = msgspec.Raw(msgspec.json.encode(capabilities))
    return msgspec.json.encode(document)


def _personal(greeting: bytes, session: gate.Session) -> bytes:
    """The core's answer with the client's own name in `userAgent`, as the reference has it."""
    try:
        document = msgspec.json.decode(greeting, type=Document)
        agent = msgspec.json.decode(document["userAgent"], type=str)
    except (msgspec.DecodeError, KeyError):
        return greeting
    base = agent.rpartition(" (")[0] if agent.endswith(")") and " (" in agent else agent
    if f"({OUR_NAME};" not in agent:
        base = agent
    named = f"{base} ({session.client_name}; {session.client_version})"
    document["userAgent"] = msgspec.Raw(msgspec.json.encode(named))
    return msgspec.json.encode(document)
