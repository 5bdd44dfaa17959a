r"""A client and its own core: what one has asked the other, found again by the answer's id.

    client --request--> asked[key] --answer--> gone       equal ids: the oldest first

Ids stay their sender's; `key_of` only makes two spellings of one id equal, so that
`"a"` is found when the answer says `"\u0061"`. It passes nothing on: `passthrough` does.
"""

from collections import deque
from typing import Final

import msgspec
from msgspec import UNSET

from core_server.jsonrpc import codec
from core_server.jsonrpc.messages import Message
from trace_proxy.protocol.envelope import GarbageError
from trace_proxy.state.connection import Connection, Pending
from trace_proxy.state.core_session import CoreSession

INTERRUPT_KEY: Final = b'"trace-proxy/interrupt"'
"""The one id of ours, when a drain's deadline has passed; a string that no client uses."""

_NUMBER_CHARS: Final = 64
"""Of an id; numbers are 19 digits at most, what is longer was made to fill our memory."""

_MESSAGE = msgspec.json.Decoder(Message)
_ANYTHING = msgspec.json.Decoder(msgspec.Raw)
_NOTHING: Final = Message()


def seen(line: bytes) -> Message:
    """What can be seen of a JSON document; nothing where it is no message (a batch, a number).

    Raises:
        GarbageError: it is not UTF-8 or not JSON.
    """
    try:
        try:
            message = _MESSAGE.decode(line)
        except msgspec.ValidationError:
            message = _NOTHING
            _ANYTHING.decode(line)
        if not line.isascii():
            line.decode()
    except msgspec.DecodeError as error:
        why = "not UTF-8" if codec.is_bad_utf8(error) else str(error)
        raise GarbageError(why, line) from None
    except UnicodeDecodeError:
        raise GarbageError("not UTF-8", line) from None
    except RecursionError:
        raise GarbageError("nested too deeply", line) from None
    return message


def key_of(message: Message) -> bytes | None:
    """The id of a message, in one spelling; None without one that can be followed.

    `null` asks for no answer (JSON-RPC 1.0) or names none (2.0 section 5); other types
    than strings and numbers are not allowed (2.0 section 4).
    """
    if message.id is UNSET:
        return None
    raw = bytes(message.id)
    if raw.isdigit() and len(raw) < _NUMBER_CHARS:
        return raw
    if raw[:1] == b'"' or (raw[:1] in b"-0123456789" and 0 < len(raw) < _NUMBER_CHARS):
        try:
            value = msgspec.json.decode(raw)
        except msgspec.DecodeError:
            return None  # a number beyond all bounds
        whole = isinstance(value, float) and value.is_integer()
        return msgspec.json.encode(int(value) if whole else value)
    return None


class Pair:
    """A client and its core.

    Attributes:
        connection: The client.
        core: Its core, numbered like it.
        interrupts: Requests of ours that the core has not answered.
    """

    __slots__ = ("_asked", "connection", "core", "interrupts")

    def __init__(self, connection: Connection, core: CoreSession) -> None:
        self.connection = connection
        self.core = core
        self.interrupts = 0
        self._asked: dict[bytes, deque[Pending]] = {}

    def __repr__(self) -> str:
        return f"<Pair {self.connection!r} {self.core!r}>"

    def ask(self, key: bytes, pending: Pending) -> None:
        """Enter a request of the client."""
        self._asked.setdefault(key, deque()).append(pending)
        self.connection.in_flight[id(pending)] = pending

    def answered(self, key: bytes) -> Pending | None:
        """Take the request that an answer belongs to; None if there is none."""
        waiting = self._asked.get(key)
        if waiting is None:
            return None
        pending = waiting.popleft()
        if not waiting:
            del self._asked[key]
        del self.connection.in_flight[id(pending)]
        return pending

    def answered_all(self) -> list[Pending]:
        """Take all of them: nothing will be answered any more."""
        pending = list(self.connection.in_flight.values())
        self.connection.in_flight.clear()
        self._asked.clear()
        return pending
