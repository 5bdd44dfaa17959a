"""Many text deltas of one item into one: the same text in fewer messages, lossless.

Two deltas are joined when everything but their text (and time of emission) is equal,
and nothing between them could care. What is passed over: deltas of other items, and
messages of other threads. What is a barrier: for its thread any other message of it;
for all threads an answer, and whatever names no thread.
Text that is base64 (`command/exec/outputDelta`) is no text and stays as it is.
"""

from collections.abc import Callable, Sequence
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

    __slots__ = ("message", "params", "rest", "texts")

    def __init__(self, message: _Members, params: _Members, rest: bytes) -> None:
        self.message = message
        self.params = params
        self.rest = rest
        self.texts = [bytes(params["delta"])]

    def encoded(self) -> bytes:
        """One message with all the text: JSON strings end to end, without their inner quotes."""
        text = b'"' + b"".join(text[1:-1] for text in self.texts) + b'"'
        params = {**self.params, "delta": Raw(text)}
        return _ENCODER.encode({**self.message, "params": Raw(_ENCODER.encode(params))})


class _Joiner:
    """Walks over messages once and collects runs."""

    def __init__(self) -> None:
        self.entries: list[bytes | _Run] = []
        self._open: dict[bytes, dict[bytes, _Run]] = {}

    def add(self, frame: bytes, message: bytes) -> None:
        """Look at the next message: it continues a run, begins one, or is a barrier."""
        try:
            head = _HEAD.decode(message)
            where = _WHERE.decode(head.params) if head.params is not UNSET else _Where()
            run = self._run(message) if head.method in METHODS and head.id is UNSET else None
        except (msgspec.DecodeError, KeyError):
            head, where, run = _Head(), _Where(), None
        thread = bytes(where.threadId) if where.threadId is not UNSET else _NOWHERE
        if run is None:
            self._barrier(thread)
            self.entries.append(frame)
            return
        item = bytes(where.itemId) if where.itemId is not UNSET else _NOWHERE
        runs = self._open.setdefault(thread, {})
        open_run = runs.get(item)
        if open_run is not None and open_run.rest == run.rest:
            open_run.texts += run.texts
            return
        runs[item] = run
        self.entries.append(run)

    def _barrier(self, thread: bytes) -> None:
        if thread == _NOWHERE:
            self._open.clear()
        else:
            self._open.pop(thread, None)

    def _run(self, message: bytes) -> _Run | None:
        members = _MEMBERS.decode(message)
        params = _MEMBERS.decode(members["params"])
        if bytes(params["delta"])[:1] != b'"':
            return None
        rest_of_params = {**params, "delta": Raw(b"0")}
        rest = {**members, "params": Raw(_ENCODER.encode(rest_of_params))}
        rest.pop("emittedAtMs", None)
        return _Run(members, params, _ENCODER.encode(rest))


def join_deltas(
    frames: Sequence[bytes], unwrap: Callable[[bytes], bytes], wrap: Callable[[bytes], bytes]
) -> list[bytes]:
    """The same frames with the deltas of each item joined; others are the same objects.

    Args:
        frames: In the order in which they would be sent.
        unwrap: The transport's frame → message.
        wrap: Message → frame.
    """
    joiner = _Joiner()
    frame_of: dict[int, bytes] = {}
    for frame in frames:
        before = len(joiner.entries)
        joiner.add(frame, unwrap(frame))
        if len(joiner.entries) > before:
            frame_of[before] = frame
    return [
        frame_of[position]
        if isinstance(entry, bytes) or len(entry.texts) == 1
        else wrap(entry.encoded())
        for position, entry in enumerate(joiner.entries)
    ]
