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
from msgspec import Raw

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

_QUOTED: Final = frozenset(b'"%b"' % method.encode() for method in METHODS)

_EMITTED: Final = ("emittedAtMs",)

_Members = dict[str, Raw]
_MEMBERS: Final = msgspec.json.Decoder(_Members)
_ENCODER: Final = msgspec.json.Encoder()


class _Run:
    """Deltas of one item that follow one another.

    Attributes:
        frame: The first's.
        message: The first's members without params and time of emission.
        params: The first's without the text.
        emitted: The first's time of emission, if it has one.
        texts: Everyone's, JSON strings.
    """

    __slots__ = ("emitted", "frame", "message", "params", "texts")

    def __init__(self, frame: bytes, message: _Members, params: _Members) -> None:
        self.frame = frame
        del message["params"]
        self.emitted = {name: message.pop(name) for name in _EMITTED if name in message}
        self.message = message
        self.texts = [bytes(params.pop("delta"))]
        self.params = params

    def continues(self, before: "_Run") -> bool:
        """Whether all but the text and the time is the same."""
        return self.params == before.params and self.message == before.message

    def joined(self) -> bytes:
        """One message with all the text: JSON strings end to end, without their inner quotes."""
        text = b'"' + b"".join(text[1:-1] for text in self.texts) + b'"'
        params = _ENCODER.encode({**self.params, "delta": Raw(text)})
        return _ENCODER.encode({**self.message, "params": Raw(params), **self.emitted})


class _Joiner:
    """Walks over the frames once and collects runs."""

    def __init__(self) -> None:
        self.entries: list[bytes | _Run] = []
        self._open: dict[bytes, dict[bytes, _Run]] = {}

    def add(self, frame: bytes, message: bytes) -> None:
        """Look at the next frame: it continues a run, begins one, or is a barrier."""
        members = _members(message)
        params = _members(members.get("params", b"{}"))
        thread = bytes(params.get("threadId", b""))
        if not _is_delta(members, params):
            self._barrier(thread)
            self.entries.append(frame)
            return
        item = bytes(params.get("itemId", b""))
        run = _Run(frame, members, params)
        runs = self._open.setdefault(thread, {})
        before = runs.get(item)
        if before is not None and run.continues(before):
            before.texts += run.texts
        else:
            runs[item] = run
            self.entries.append(run)

    def _barrier(self, thread: bytes) -> None:
        if thread:
            self._open.pop(thread, None)
        else:
            self._open.clear()


def _members(value: bytes | Raw) -> _Members:
    """An object's members, none of what is no object."""
    try:
        return _MEMBERS.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}


def _is_delta(members: _Members, params: _Members) -> bool:
    return (
        bytes(members.get("method", b"")) in _QUOTED
        and bytes(params.get("delta", b"")).startswith(b'"')
        and "id" not in members
    )


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
