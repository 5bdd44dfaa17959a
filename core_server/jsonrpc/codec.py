"""Bytes to messages and back: strict in what we accept, exact in what we echo.

`decode` refuses what JSON forbids or parsers disagree about: invalid UTF-8, a
byte order mark, NaN, lone surrogates, duplicate members, deep nesting. Request
ids are kept as the bytes that were sent, so they come back exactly.
It does not split a stream into messages (`framing`) and knows no method.
"""

import json
import re
from collections import Counter
from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from core_server.jsonrpc import codes
from core_server.jsonrpc.messages import Message

MAX_DEPTH: Final = 128
"""Deeper documents come from attackers; our own are below 16, the reference's below 32."""

NULL_ID: Final = b"null"

_INT64_MAX = 2**63 - 1
_INT64_MIN = -(2**63)
_INT64_DIGITS = 20  # with the sign
_SURELY_INT64_DIGITS = 18
_SHALLOW_BYTES = 2 * MAX_DEPTH  # each level takes two bracket bytes

_STRING = re.compile(rb'"[^"]*+"')
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_NO_MARKS = bytes(byte for byte in range(256) if byte not in b'[]{}"')

_MESSAGE_DECODER = msgspec.json.Decoder(Message)


class _OnlyId(msgspec.Struct):
    id: Raw | UnsetType = UNSET


_ID_DECODER = msgspec.json.Decoder(_OnlyId)
_ENCODER = msgspec.json.Encoder()


class MalformedError(Exception):
    """The bytes are no message. The peer's fault; tell it and go on.

    Attributes:
        code: -32700 when it is not JSON, -32600 when it is not a request.
        id: The request's id as sent where it can be read, else `null`.
    """

    def __init__(self, code: int, message: str, request_id: bytes = NULL_ID) -> None:
        super().__init__(message)
        self.code = code
        self.id = request_id


def decode(data: bytes) -> Message:
    """Decode one message; the result is a request, a notification or a response.

    Raises:
        MalformedError: with the error to answer (JSON-RPC 2.0 section 5.1).
    """
    try:
        message = _MESSAGE_DECODER.decode(data)
        if not data.isascii():
            data.decode()
    except msgspec.ValidationError as error:
        raise _not_a_message(data, str(error)) from None
    except UnicodeDecodeError:
        raise MalformedError(codes.PARSE_ERROR, "Parse error: not UTF-8") from None
    except msgspec.DecodeError as error:
        raise MalformedError(codes.PARSE_ERROR, f"Parse error: {error}") from None
    except RecursionError:
        raise _too_deep(NULL_ID) from None
    _check(message, data)
    return message


def request_id(message: Message) -> bytes:
    """The id exactly as sent: the JSON text of a string or a 64-bit integer.

    Raises:
        MalformedError: -32600, when it is anything else (null, a fraction, too large).
    """
    raw = bytes(message.id) if message.id is not UNSET else NULL_ID
    if raw[:1] == b'"' or (raw.isdigit() and len(raw) <= _SURELY_INT64_DIGITS):
        return raw
    if _is_integer(raw) and _INT64_MIN <= int(raw) <= _INT64_MAX:
        return raw
    raise MalformedError(
        codes.INVALID_REQUEST, "Invalid request: id must be a string or a 64-bit integer"
    )


_ID_IN_HEAD = re.compile(
    rb'\s*\{\s*(?:"(?:jsonrpc|method)"\s*:\s*"[^"\\]*"\s*,\s*)*"id"\s*:\s*("[^"\\]*"|-?\d+)\s*[,}]'
)


def id_in_head(head: bytes) -> bytes:
    """The id of a message of which only the first bytes are known, else `null`.

    Found where encoders put it: before `params`.
    """
    found = _ID_IN_HEAD.match(head)
    if found is None or (found[1][:1] != b'"' and not _is_integer(found[1])):
        return NULL_ID
    return found[1]


def _is_integer(raw: bytes) -> bool:
    return len(raw) <= _INT64_DIGITS and raw.removeprefix(b"-").isdigit()


def _check(message: Message, data: bytes) -> None:
    if message.method is UNSET and (
        message.id is UNSET or (message.result is UNSET) is (message.error is UNSET)
    ):
        raise MalformedError(
            codes.INVALID_REQUEST, "Invalid request: missing field `method`", _readable_id(message)
        )
    if message.jsonrpc is not UNSET and bytes(message.jsonrpc) != b'"2.0"':
        raise MalformedError(
            codes.INVALID_REQUEST,
            'Invalid request: jsonrpc must be "2.0" or left out',
            _readable_id(message),
        )
    if not is_shallow(data) and _too_nested(data):
        raise _too_deep(_readable_id(message))
    if not _members_fill(message, len(data)):
        _refuse_duplicates(message, data)


def _members_fill(message: Message, size: int) -> bool:
    """Whether the known members account for every byte, so that none came twice.

    Counts a compact document and one with a blank after each colon and comma, as
    most encoders write them; anything else is looked at closely (and slowly).
    Unrolled, because every message of every client passes here.
    """
    count, total = 0, 1
    if message.method is not UNSET:
        count, total = 1, 13 + len(message.method)
    if message.id is not UNSET:
        count += 1
        total += 6 + len(bytes(message.id))
    if message.params is not UNSET:
        count += 1
        total += 10 + len(bytes(message.params))
    if message.trace is not UNSET:
        count += 1
        total += 9 + len(bytes(message.trace))
    if message.jsonrpc is not UNSET:
        count += 1
        total += 11 + len(bytes(message.jsonrpc))
    if message.method is UNSET:
        answer = message.error if message.result is UNSET else message.result
        count += 1
        total += (9 if message.result is UNSET else 10) + len(bytes(answer or b""))
    return size in (total, total + 2 * count - 1)


def _refuse_duplicates(message: Message, data: bytes) -> None:
    """Look at the members of the outermost object; inner ones are their reader's business."""
    try:
        members = json.loads(data, object_pairs_hook=_Members)
    except ValueError:  # a number with more digits than Python converts
        return
    counts = Counter(name for name, _ in members.pairs)
    name, times = counts.most_common(1)[0]
    if times > 1:
        why = f"Invalid request: duplicate field `{name[:64]}`"
        known = NULL_ID if counts["id"] > 1 else _readable_id(message)
        raise MalformedError(codes.INVALID_REQUEST, why, known)


class _Members:
    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        self.pairs = pairs


def is_shallow(data: bytes) -> bool:
    """Whether valid JSON surely has at most `MAX_DEPTH` levels, by a look at its brackets."""
    return len(data) <= _SHALLOW_BYTES or data.count(b"{") + data.count(b"[") <= MAX_DEPTH


def _too_nested(data: bytes) -> bool:
    """Peel valid JSON from the inside, a level at a time; all of it in C, as it may be large."""
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = data.translate(_ONE_KIND, delete=_NO_MARKS).replace(b'""', b"")
    if b'"' in marks:  # strings that hold brackets
        marks = _STRING.sub(b"", marks)
    for level in range(MAX_DEPTH):
        if len(marks) <= 2 * (MAX_DEPTH - level):
            return False
        marks = marks.replace(b"[]", b"")
    return bool(marks)


def _too_deep(request_id: bytes) -> MalformedError:
    return MalformedError(
        codes.INVALID_REQUEST,
        f"Invalid request: nested deeper than {MAX_DEPTH} levels",
        request_id,
    )


def _readable_id(message: Message) -> bytes:
    try:
        return request_id(message)
    except MalformedError:
        return NULL_ID


def _not_a_message(data: bytes, why: str) -> MalformedError:
    """JSON, but not an object, or its `method` is no string."""
    try:
        found = _ID_DECODER.decode(data).id
        readable = _readable_id(Message(id=found)) if found is not UNSET else NULL_ID
    except (msgspec.DecodeError, RecursionError):
        readable = NULL_ID
    return MalformedError(codes.INVALID_REQUEST, f"Invalid request: {why}", readable)


def result(request_id: bytes, value: bytes) -> bytes:
    """A successful response; `value` is JSON."""
    return b'{"id":%b,"result":%b}' % (request_id, value)


def error(request_id: bytes, code: int, message: str, data: object = None) -> bytes:
    """An error response; `data` is anything JSON can hold, left out when None."""
    body: dict[str, object] = {"code": code, "message": message}
    if data is not None:
        body["data"] = data
    return b'{"error":%b,"id":%b}' % (_ENCODER.encode(body), request_id)


def with_version(message: bytes) -> bytes:
    """The same message for a peer that speaks strict JSON-RPC 2.0 (section 4)."""
    return b'{"jsonrpc":"2.0",' + message[1:]


def one_line(value: bytes) -> bytes:
    """Valid JSON without line breaks, which it may have between tokens only."""
    if b"\n" in value or b"\r" in value:
        return value.replace(b"\n", b" ").replace(b"\r", b" ")
    return value
