"""Speaks to the client: notifications and questions, encoded, filtered and in order."""

import time

import msgspec

from core_server.context import Durable
from core_server.outgoing.outbox import Outbox
from core_server.protocol.notifications import NOTIFICATIONS
from core_server.session.gate import Gate
from core_server.session.thread import ThreadMachine

_encode = msgspec.json.Encoder().encode
_HEADS = {method: b'{"method":%b,"params":' % _encode(method) for method in NOTIFICATIONS}


class Voice:
    """The only way in which anything but an answer gets to the client."""

    def __init__(self, outbox: Outbox, gate: Gate) -> None:
        self._outbox = outbox
        self._gate = gate

    def say(
        self,
        method: str,
        params: msgspec.Struct,
        thread: ThreadMachine,
        after: Durable | None = None,
        otherwise: msgspec.Struct | None = None,
    ) -> None:
        """Tell whoever subscribes to the thread, in the thread's order.

        Args:
            method: One of `NOTIFICATIONS`.
            params: Its params.
            thread: Whose event it is; its status is told without a subscription too.
            after: The write that must be durable before.
            otherwise: Params to send instead when that write failed.
        """
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
            self._outbox.post(_line(method, params), lane, after, instead)

    def ask(self, method: str, request_id: int, params: msgspec.Struct, lane: str) -> None:
        """Send a question; `session.pending` knows the id."""
        line = b'{"method":%b,"id":%d,"params":%b}' % (
            _encode(method),
            request_id,
            _encode(params),
        )
        self._outbox.post(line, lane)


def now_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


def _line(method: str, params: msgspec.Struct) -> bytes:
    return b'%b%b,"emittedAtMs":%d}' % (_HEADS[method], _encode(params), now_ms())
