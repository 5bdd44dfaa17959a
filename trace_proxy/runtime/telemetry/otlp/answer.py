"""What a collector's 2xx answer says: all taken, some refused, or no collector at all.

A proxy's login page answers 200 too, and a collector may take a batch but for a few spans:
https://opentelemetry.io/docs/specs/otlp/#partial-success.
"""

from typing import Final, NamedTuple

import msgspec

from trace_proxy.runtime.telemetry.otlp.http_post import Answer

A_PAGE: Final = "a web page answered: is the endpoint a collector?"

_PAGES: Final = frozenset({"text/html", "application/xhtml+xml"})
_PROTOBUF: Final = frozenset({"application/x-protobuf", "application/protobuf"})
_MAX_VARINT_BYTES: Final = 10


class Taken(NamedTuple):
    """What became of a batch.

    Attributes:
        refused: Spans of it that the collector did not take.
        message: What it says about that, or as a warning.
    """

    refused: int = 0
    message: str = ""


def read_answer(answer: Answer) -> Taken | None:
    """Understand a 2xx answer; None when it comes from no collector.

    A body that is neither OTLP nor a page says nothing: the status counts.
    """
    body = answer.body
    if answer.content_type in _PAGES or body.lstrip()[:1] == b"<":
        return None
    try:
        if answer.content_type in _PROTOBUF:
            return _from_protobuf(body)
        return _from_json(body) if body else Taken()
    except (TypeError, ValueError, msgspec.DecodeError):
        return Taken()


class _Partial(msgspec.Struct, rename="camel"):
    rejected_spans: int | str = 0
    error_message: str = ""


class _Response(msgspec.Struct, rename="camel"):
    partial_success: _Partial = msgspec.field(default_factory=_Partial)


_JSON = msgspec.json.Decoder(_Response)


def _from_json(body: bytes) -> Taken:
    partial = _JSON.decode(body).partial_success
    return Taken(max(int(partial.rejected_spans), 0), partial.error_message)


def _from_protobuf(body: bytes) -> Taken:
    partial = _fields(body).get(1, b"")
    if isinstance(partial, int):
        raise TypeError("no message")
    fields = _fields(partial)
    refused, message = fields.get(1, 0), fields.get(2, b"")
    if not isinstance(refused, int) or isinstance(message, int):
        raise TypeError("other types than the schema's")
    return Taken(refused if refused < 2**63 else 0, message.decode(errors="replace"))


def _fields(data: bytes) -> dict[int, int | bytes]:
    """The fields of a message by number, the last of each; groups are not understood.

    Raises:
        ValueError: It is no protobuf message.
    """
    found: dict[int, int | bytes] = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        match tag & 7:
            case 0:
                found[tag >> 3], at = _varint(data, at)
                continue
            case 1:
                size = 8
            case 5:
                size = 4
            case 2:
                size, at = _varint(data, at)
            case _:  # https://protobuf.dev/programming-guides/encoding/#structure
                raise ValueError("a wire type of long ago")
        if at + size > len(data):
            raise ValueError("it ends too early")
        found[tag >> 3] = data[at : at + size]
        at += size
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = 0
    for index, byte in enumerate(data[at : at + _MAX_VARINT_BYTES]):
        number |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return number, at + index + 1
    raise ValueError("a number without an end")
