"""What runs now, what waits for a human, and how the last turns went; never what was said.

Rows hold what spans may hold: ids, names, words of status, times, counts. They are made
when somebody looks; only the turns that have ended are kept, the last 200 of them.
Two looks are compared row by row, so that a watcher is told what has changed.
"""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Final

import msgspec

from trace_proxy.protocol import acp, mcp, methods
from trace_proxy.spans import semconv
from trace_proxy.spans.turn_spans import Turn
from trace_proxy.spans.turn_time import TOOL
from trace_proxy.spans.turns import EndedTurn, Turns
from trace_proxy.state.connection import Connection
from trace_proxy.state.server_requests import ServerRequest, ServerRequests

RECENT_KEPT: Final = 200
"""An hour of one person, a few seconds of a busy host: what a page can show and filter."""

LIVE_SHOWN: Final = 100
NEEDS_SHOWN: Final = 100
CLIENTS_SHOWN: Final = 200
"""More rows than anybody reads; the counts in the bar are whole."""

_OF_PROGRAMS: Final = methods.OF_PROGRAMS | mcp.OF_PROGRAMS | (acp.SERVER_REQUESTS - acp.OF_PEOPLE)
"""What waits for a program alone."""

Split = tuple[int, int, int]
"""Milliseconds of the model, of tools, of humans."""


class NeedRow(msgspec.Struct, frozen=True, rename="camel"):
    """A server request that nobody has answered: its method, who began the turn, since when."""

    kind: str
    client: str
    thread: str
    turn: str
    since_ms: int


class LiveRow(msgspec.Struct, frozen=True, rename="camel"):
    """A running turn; `split` is as of `at_ms`, and what it does since then is `now`."""

    client: str
    connection: str
    thread: str
    model: str
    start_ms: int
    at_ms: int
    now: str
    tool: str
    split: Split
    tokens: tuple[int, int]
    trace: str


class RecentRow(msgspec.Struct, frozen=True, rename="camel"):
    """A turn that has ended; `error` says why it failed, who ended it, or that its core was lost."""

    client: str
    connection: str
    thread: str
    model: str
    start_ms: int
    end_ms: int
    status: str
    error: str
    split: Split
    tokens: tuple[int, int]
    trace: str


class ClientRow(msgspec.Struct, frozen=True, rename="camel"):
    """A connection; `state` is `ok`, `paced`, `slow` or `closing`."""

    name: str
    version: str
    peer: str
    queue_bytes: int
    in_flight: int
    state: str


Row = NeedRow | LiveRow | RecentRow | ClientRow
Rows = Mapping[str, Row]


class Change(msgspec.Struct, omit_defaults=True):
    """What became of the rows of a section."""

    set: dict[str, Row] = {}
    gone: list[str] = []


class Overview:
    """The rows of one proxy.

    Args:
        turns: Those that run.
        server_requests: What cores have asked.
        connections: All clients, by key.
    """

    def __init__(
        self,
        turns: Turns,
        server_requests: ServerRequests,
        connections: Mapping[int, Connection],
    ) -> None:
        self._turns = turns
        self._server_requests = server_requests
        self._connections = connections
        self._recent: dict[str, RecentRow] = {}

    def __repr__(self) -> str:
        return f"<Overview recent={len(self._recent)}>"

    def turn_ended(self, ended: EndedTurn, now_ns: int) -> None:
        """Keep how it went."""
        turn = ended.turn
        self._recent.pop(turn.turn_id, None)
        self._recent[_id(turn.turn_id)] = RecentRow(
            client=_asker(turn, semconv.CLIENT_NAME),
            connection=_asker(turn, semconv.CONNECTION_ID),
            thread=_id(turn.thread),
            model=_id(turn.agent.model),
            start_ms=turn.start_ns // 1_000_000,
            end_ms=max(now_ns, turn.start_ns) // 1_000_000,
            status=ended.status,
            error=ended.why
            or turn.ended_by
            or ("" if turn.failure is None else turn.failure.kind),
            split=turn.time.split_ms(now_ns),
            tokens=(turn.input_tokens, turn.output_tokens),
            trace=_trace(turn),
        )
        if len(self._recent) > RECENT_KEPT:
            del self._recent[next(iter(self._recent))]

    def recent(self) -> Rows:
        """The last turns, oldest first."""
        return dict(self._recent)

    def live(self) -> Rows:
        """Running turns, oldest first."""
        return {_id(turn.turn_id): _live(turn) for turn in islice(self._turns, LIVE_SHOWN)}

    def needs(self) -> Rows:
        """What waits for a human, oldest first."""
        pending = self._server_requests.pending()
        people = (asked for asked in pending if asked.method not in _OF_PROGRAMS)
        return {str(asked.request_id): self._need(asked) for asked in islice(people, NEEDS_SHOWN)}

    def _need(self, asked: ServerRequest) -> NeedRow:
        turn = None if asked.thread is None else self._turns.of_thread(asked.thread)
        return NeedRow(
            kind=asked.method[: semconv.ORIGINAL_METHOD_CHARS],
            client="" if turn is None else _asker(turn, semconv.CLIENT_NAME),
            thread=_id(asked.thread or ""),
            turn="" if turn is None else _id(turn.turn_id),
            since_ms=asked.start_ns // 1_000_000,
        )

    def clients(self, queues: Iterable[tuple[int, int, str]]) -> Rows:
        """Who is connected.

        Args:
            queues: For each client its connection's key, bytes that wait for it, and state.
        """
        rows: dict[str, Row] = {}
        for key, queue_bytes, state in islice(queues, CLIENTS_SHOWN):
            connection = self._connections.get(key)
            if connection is not None:
                session, peer = connection.session, connection.peer
                rows[str(key)] = ClientRow(
                    name="" if session is None else _id(session.client_name),
                    version="" if session is None else _id(session.client_version),
                    peer=peer.address or peer.transport,
                    queue_bytes=queue_bytes,
                    in_flight=connection.load.requests,
                    state=state,
                )
        return rows


def changed(before: Rows, after: Rows) -> Change | None:
    """What turns the one into the other; None when they are the same."""
    new = {key: row for key, row in after.items() if before.get(key) != row}
    gone = [key for key in before if key not in after]
    return Change(new, gone) if new or gone else None


def _live(turn: Turn) -> LiveRow:
    """As of the last time that something began or ended in it: equal until the next."""
    time = turn.time
    tools = list(turn.tools.values())
    return LiveRow(
        client=_asker(turn, semconv.CLIENT_NAME),
        connection=_asker(turn, semconv.CONNECTION_ID),
        thread=_id(turn.thread),
        model=_id(turn.agent.model),
        start_ms=turn.start_ns // 1_000_000,
        at_ms=time.since_ns // 1_000_000,
        now=time.now,
        tool=tools[-1].name if tools and time.now == TOOL else "",
        split=time.split_ms(time.since_ns),
        tokens=(turn.input_tokens, turn.output_tokens),
        trace=_trace(turn),
    )


def _asker(turn: Turn, name: str) -> str:
    return str(turn.asker.get(name, ""))[: semconv.ID_CHARS]


def _trace(turn: Turn) -> str:
    """The id under which the turn is found, empty when it is not sampled."""
    return f"{turn.context.trace_id:032x}" if turn.context.flags & 1 else ""


def _id(text: str) -> str:
    return text[: semconv.ID_CHARS]
