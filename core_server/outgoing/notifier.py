"""Speaks to the client: notifications and questions, encoded, filtered and in order."""

import time
from collections.abc import Callable
from typing import Final

import msgspec

from core_server.context import Durable
from core_server.outgoing.outbox import Outbox
from core_server.protocol.notifications import NOTIFICATIONS
from core_server.protocol.wire import encode
from core_server.session.gate import Gate
from core_server.session.thread import ThreadMachine

_HEADS = {method: b'{"method":%b,"params":' % encode(method) for method in NOTIFICATIONS}

FIRM: Final = frozenset(
    {"thread/status/changed", "turn/completed", "error", "serverRequest/resolved"}
)
"""Told of a thread whose write failed, too: the end of what was told of before."""

_UNWRITTEN = frozenset(
    method for method in NOTIFICATIONS if method.lower().endswith(("delta", "partadded"))
)


class Voice:
    """The only way in which anything but an answer gets to the client."""

    def __init__(
        self, outbox: Outbox, gate: Gate, may_speak: Callable[[ThreadMachine], bool]
    ) -> None:
        self._outbox = outbox
        self._gate = gate
        self._may_speak = may_speak

    def say(
        self,
        method: str,
        params: msgspec.Struct,
        thread: ThreadMachine,
        after: Durable | None = None,
        otherwise: msgspec.Struct | None = None,
    ) -> None:
        """Tell whoever subscribes to the thread, in the thread's order.

        What has no write behind it that says so must be said while the thread is surely
        ours: deltas of an owner that was taken over reach nobody.

        Args:
            method: One of `NOTIFICATIONS`.
            params: Its params.
            thread: Whose event it is; its status is told without a subscription too.
            after: The write that must be durable before.
            otherwise: Params to send instead when that write failed.
        """
        if thread.broken and method not in FIRM:
            return
        if after is None and method in _UNWRITTEN and not self._may_speak(thread):
            return
        if thread.subscribed or method == "thread/status/changed":
            self.tell(method, params, thread.id, after, otherwise)

    def tell(
        self,
        method: str,
        params: msgspec.Struct,
        lane: str = "",
        after: Durable | None = None,
        otherwise: msgspec.Struct | None = None,
    ) -> None:
        """Tell everybody, in the order of a thread (the lane) if there is one."""
        if self._gate.wants(method):
            instead = None if otherwise is None else _line(method, otherwise)
            firm = method in FIRM
            self._outbox.post(_line(method, params), lane, after, instead, firm=firm)

    def ask(
        self, method: str, request_id: int, params: msgspec.Struct, thread: ThreadMachine
    ) -> None:
        """Send a question; `turns.approvals` knows the id."""
        if thread.broken:
            return
        line = b'{"method":%b,"id":%d,"params":%b}' % (
            encode(method),
            request_id,
            encode(params),
        )
        self._outbox.post(line, thread.id)


def now_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


def _line(method: str, params: msgspec.Struct) -> bytes:
    return b'%b%b,"emittedAtMs":%d}' % (_HEADS[method], encode(params), now_ms())
