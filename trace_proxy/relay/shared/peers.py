"""The other hosts of a fleet: a core here says who owns a thread, and that host is asked.

    client ── this proxy ── its core: "owned elsewhere, at ws://other"
                  └── ws://other ── its proxy ── its core, which owns the thread

A peer is a core session like any other: ids, handles, subscriptions and approvals are
kept by the same parts. It differs in how it is reached, in that nothing new is placed
there, and in that its spans are made there: here one CLIENT span tells of the hop.
A request passes one hop at most: what a peer asks is answered by our own cores, or with
an error, and what a peer tells is told to no other peer. So nothing can go round.

When a peer is gone, or says that a thread is loaded there no more, its subscribers stay:
`follow` asks our core again and again who owns the thread now, and goes there.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec
from msgspec import UNSET

from core_server.jsonrpc import codes
from trace_proxy.drain import State
from trace_proxy.protocol import envelope
from trace_proxy.protocol.authority import parse_ws_url
from trace_proxy.protocol.envelope import CoreMessage
from trace_proxy.protocol.refusal import NO_CORE
from trace_proxy.relay.board import Board
from trace_proxy.relay.shared.hosts import Hosts
from trace_proxy.relay.shared.pool import Pool
from trace_proxy.state.connection import Pending
from trace_proxy.state.core_session import CoreSession, CoreState

MAX_HOPS: Final = 3
"""Ways that one request goes before its error is handed on: here, there, and once more."""

FOLLOW_S: Final = 0.25
"""Between two questions who owns a thread; the answer changes when a lease ends."""

IDLE_S: Final = 60.0
"""A peer of whom nobody hears anything for so long is left."""

_encode = msgspec.json.Encoder().encode

Dispatch = Callable[[CoreSession, int, Pending, bytes | None], None]
"""`Requests.dispatch`."""


_TRANSIENT: Final = frozenset(
    {codes.OVERLOADED, codes.CORE_LOST, codes.OWNED_ELSEWHERE, codes.INTERNAL_ERROR}
)
"""Whoever answers so to the question for a thread may answer otherwise in a moment."""


class _Data(msgspec.Struct):
    reason: str = ""
    url: str = ""


class _Error(msgspec.Struct):
    code: int = 0
    data: _Data | None = None


_ERROR: Final = msgspec.json.Decoder(_Error)


def _error(message: CoreMessage) -> tuple[int, _Data]:
    """Code and data of an error; 0 and nothing for a result, or an odd error."""
    if message.error is UNSET:
        return 0, _Data()
    try:
        error = _ERROR.decode(message.error)
    except msgspec.DecodeError:
        return 0, _Data()
    return error.code, error.data or _Data()


def owner_url(message: CoreMessage) -> str:
    """Where an error says that a thread is owned; empty when it says nothing of the kind.

    Another host has written it into the store: what nobody can connect to is nowhere.
    """
    code, data = _error(message)
    if code != codes.OWNED_ELSEWHERE or parse_ws_url(data.url) is None:
        return ""
    return data.url


class Peers:
    """Sessions with other hosts, and the threads that are looked for.

    Args:
        board: The hub's.
        pool: What a lost session held is settled there.
        dispatch: Gives a request to a core.
        me: Our own URL, as others see it.
        hosts: Has our sessions with them.
    """

    def __init__(
        self,
        board: Board,
        pool: Pool,
        dispatch: Dispatch,
        me: str,
        hosts: Hosts,
    ) -> None:
        self._board = board
        self._pool = pool
        self._dispatch = dispatch
        self._me = me
        self._hosts = hosts
        self._following: dict[str, float] = {}  # thread → when to ask; inf while it is asked
        self._held: dict[str, list[Pending]] = {}  # what waits for a thread that is looked for
        self._idle_since_s: dict[int, float] = {}

    def __repr__(self) -> str:
        return f"<Peers {self._hosts!r} following={len(self._following)}>"

    def relay(self, core: CoreSession, pending: Pending, message: CoreMessage) -> bool:
        """Take a request to the host that owns its thread; False when its error stands."""
        url, connection, thread = owner_url(message), pending.connection, pending.thread
        if connection is None or thread is None or connection.peer.hop:
            return False
        if core.url and _error(message)[1].reason == "draining":
            return self._hold(core, thread, pending)
        if not url:
            return False
        pending.hops += 1
        if pending.hops > MAX_HOPS or (not core.url and self._is_ours(url)):
            return False
        board = self._board
        board.not_started(pending)
        if core.url:  # it moved meanwhile: only our own core's word counts
            board.placement.forget(thread)
            target = board.placement.choose()
        else:
            target = self._hosts.session(url)
            board.placement.place(thread, target)
        if target is None:
            return False
        board.effects.relayed()
        self._dispatch(target, connection.key, pending, pending.kept)
        return True

    def _is_ours(self, url: str) -> bool:
        """Whether a host that is not us is said to be where we are: nobody can reach it."""
        if url != self._me:
            return False
        hint = "two hosts of one database have the same --advertise-url"
        self._board.effects.log("thread.owner_has_our_url", url=url, hint=hint)
        return True

    def _hold(self, core: CoreSession, thread: str, pending: Pending) -> bool:
        """The other host is about to stop, we are not: wait until the thread is free."""
        board, connection = self._board, pending.connection
        assert connection is not None
        if board.placement.home(thread) is core:
            board.placement.forget(thread)
        if not self.follow(thread):
            return False
        board.not_started(pending)
        connection.in_flight[id(pending)] = pending
        self._held.setdefault(thread, []).append(pending)
        return True

    def _let_go(self, thread: str, core: CoreSession | None) -> None:
        """What waited for a thread goes to the core that has it, or is refused."""
        for pending in self._held.pop(thread, ()):
            connection = pending.connection
            if connection is None:
                continue  # it has left, and all that it asked is settled
            del connection.in_flight[id(pending)]
            if core is None:
                self._board.refuse(pending, NO_CORE)
            else:
                self._dispatch(core, connection.key, pending, pending.kept)

    def lost(self, core: CoreSession) -> None:
        """A peer cannot be reached, or is gone: its requests end, its threads are looked for."""
        if core.state is CoreState.FAILED:
            return
        board = self._board
        threads = list(board.placement.of(core))
        unsent = core.router.take_waiting(lambda pending: pending.thread is None)
        self._pool.settle(core)
        core.failed()
        self._hosts.lost(core)
        self._idle_since_s.pop(core.index, None)
        for thread in threads:
            board.placement.forget(thread)
            self.follow(thread)
        for pending in unsent:
            self._keep_here(pending)

    def _keep_here(self, pending: Pending) -> None:
        """What another host was to do and has never heard of, our own core does as well."""
        target, connection = self._board.placement.choose(), pending.connection
        if connection is None:
            return
        pending.hop = None
        if target is None:
            self._board.refuse(pending, NO_CORE)
        else:
            self._dispatch(target, connection.key, pending, pending.kept)

    def follow(self, thread: str) -> bool:
        """Look for a thread that somebody here hears; False when nobody does, or we end."""
        board = self._board
        if not board.subscribers.has(thread) or board.drain.state is not State.SERVING:
            return False
        self._following.setdefault(thread, 0.0)
        return True

    def tick(self, now_s: float) -> None:
        """Ask where threads are, and leave peers of whom nobody hears anything."""
        for thread, at_s in list(self._following.items()):
            if not self._board.subscribers.has(thread):
                del self._following[thread]
                self._let_go(thread, None)
            elif at_s <= now_s:
                self._look(thread, now_s)
        for core in self._hosts.sessions:
            self._rest(core, now_s)

    def _rest(self, core: CoreSession, now_s: float) -> None:
        board = self._board
        for thread in board.placement.of(core):
            if not board.subscribers.has(thread) and board.turns.of_thread(thread) is None:
                board.placement.forget(thread)
        if core.threads or len(core.router) or core.state is not CoreState.READY:
            self._idle_since_s.pop(core.index, None)
        elif now_s - self._idle_since_s.setdefault(core.index, now_s) >= IDLE_S:
            board.effects.close_peer(core)

    def _look(self, thread: str, now_s: float) -> None:
        core = self._board.placement.choose()
        if core is None or core.state is not CoreState.READY:
            return
        self._following[thread] = float("inf")
        self._resume(core, thread, now_s)

    def _resume(self, core: CoreSession, thread: str, now_s: float) -> None:
        params = _encode({"threadId": thread, "excludeTurns": True})
        then = partial(self._found, core, thread, now_s)
        self._board.ask(core, "thread/resume", params, then)

    def _found(
        self, core: CoreSession, thread: str, now_s: float, answer: CoreMessage | None
    ) -> None:
        """What a core says of a thread that is looked for."""
        board = self._board
        if thread not in self._following:
            return
        url = "" if answer is None else owner_url(answer)
        transient = answer is None or _error(answer)[0] in _TRANSIENT
        if answer is not None and answer.error is UNSET:
            del self._following[thread]
            board.placement.place(thread, core)
            board.subscribers.resumed(thread, None)
            board.effects.log("thread.followed", thread=thread, url=core.url or self._me)
            self._let_go(thread, core)
        elif url and url != self._me and not core.url:
            self._resume(self._hosts.session(url), thread, now_s)
        elif transient:
            self._following[thread] = now_s + FOLLOW_S
        else:
            del self._following[thread]
            board.effects.log("core.thread_lost", thread=thread)
            self._let_go(thread, None)
            line = envelope.our_notification("thread/closed", {"threadId": thread}, board.now_ns)
            board.deliver(board.audience(thread), "thread/closed", line)
            board.forget_thread(thread)
