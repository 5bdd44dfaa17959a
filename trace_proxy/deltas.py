"""Many text deltas of one item into one: the same text in fewer messages, lossless.

Two deltas are joined when everything but their text (and time of emission) is equal,
and nothing between them could care. What is passed over: deltas of other items, and
messages of other threads. What is a barrier: for its thread any other message of it;
for all threads an answer, and whatever names no thread.
Text that is base64 (`command/exec/outputDelta`) is no text and stays as it is.
"""

from collections.abc import Callable, Iterable
from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

METHODS: Final = frozenset(
    {
        "item/agentMessage/delta",
        "item/commandExecution/outputDelta",
        "item/fileChange/outputDelta",
        "item/plan/delta",
        "item/reasoning/summaryTextDelta",
        "item/reasoning/textDelta",
        "thread/realtime/item/transcript/delta",
        "thread/realtime/transcript/delta",
    }
)
"""The reference's notifications whose `params.delta` continues the one before."""

_Members = dict[str, Raw]
_MEMBERS: Final = msgspec.json.Decoder(_Members)
_ENCODER: Final = msgspec.json.Encoder()
_NOWHERE: Final = b""


class _Head(msgspec.Struct):
    """What every message is looked at for."""

    method: str | UnsetType = UNSET
    id: Raw | UnsetType = UNSET
    params: Raw | UnsetType = UNSET


class _Where(msgspec.Struct):
    """What a notification is about."""

    threadId: Raw | UnsetType = UNSET  # noqa: N815 - the wire's name
    itemId: Raw | UnsetType = UNSET  # noqa: N815 - the wire's name


_HEAD: Final = msgspec.json.Decoder(_Head)
_WHERE: Final = msgspec.json.Decoder(_Where)


class _Run:
    """Deltas of one item that follow one another: the first's members, everyone's text."""

    __slots__ = ("frame", "message", "params", "rest", "texts")

    def __init__(self, frame: bytes, message: _Members, params: _Members) -> None:
        self.frame = frame
        self.message = message
        self.params = params
        self.rest = _rest(message, params)
        self.texts = [bytes(params["delta"])]

    def joined(self) -> bytes:
        """One message with all the text: JSON strings end to end, without their inner quotes."""
        text = b'"' + b"".join(text[1:-1] for text in self.texts) + b'"'
        params = {**self.params, "delta": Raw(text)}
        return _ENCODER.encode({**self.message, "params": Raw(_ENCODER.encode(params))})


def _rest(message: _Members, params: _Members) -> bytes:
    """Everything but the text and the time: equal for deltas that continue one another."""
    rest = {**message, "params": Raw(_ENCODER.encode({**params, "delta": Raw(b"0")}))}
    rest.pop("emittedAtMs", None)
    return _ENCODER.encode(rest)


class _Joiner:
    """Walks over the frames once and collects runs."""

    def __init__(self) -> None:
        self.entries: list[bytes | _Run] = []
        self._open: dict[bytes, dict[bytes, _Run]] = {}

    def add(self, frame: bytes, message: bytes) -> None:
        """Look at the next frame: it continues a run, begins one, or is a barrier."""
        try:
            head = _HEAD.decode(message)
            where = _WHERE.decode(head.params) if head.params is not UNSET else _Where()
            run = _run(frame, message) if head.method in METHODS and head.id is UNSET else None
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError):
            where, run = _Where(), None
        thread = _NOWHERE if where.threadId is UNSET else bytes(where.threadId)
        if run is None:
            self._barrier(thread)
            self.entries.append(frame)
            return
        item = _NOWHERE if where.itemId is UNSET else bytes(where.itemId)
        runs = self._open.setdefault(thread, {})
        before = runs.get(item)
        if before is not None and before.rest == run.rest:
            before.texts += run.texts
        else:
            runs[item] = run
            self.entries.append(run)

    def _barrier(self, thread: bytes) -> None:
        if thread == _NOWHERE:
            self._open.clear()
        else:
            self._open.pop(thread, None)


def _run(frame: bytes, message: bytes) -> _Run | None:
    members = _MEMBERS.decode(message)
    params = _MEMBERS.decode(members["params"])
    is_text = bytes(params["delta"]).startswith(b'"')
    return _Run(frame, members, params) if is_text else None


def join_deltas(
    frames: Iterable[bytes], unwrap: Callable[[bytes], bytes], wrap: Callable[[bytes], bytes]
) -> list[bytes]:
    """The same frames with the deltas of each item joined; others are the same objects.

    Args:
        frames: In the order in which they would be sent.
        unwrap: The transport's frame → message.
        wrap: Message → frame.
    """
    joiner = _Joiner()
    for frame in frames:
        joiner.add(frame, unwrap(frame))
    return [_frame(entry, wrap) for entry in joiner.entries]


def _frame(entry: bytes | _Run, wrap: Callable[[bytes], bytes]) -> bytes:
    if isinstance(entry, bytes):
        return entry
    return entry.frame if len(entry.texts) == 1 else wrap(entry.joined())
