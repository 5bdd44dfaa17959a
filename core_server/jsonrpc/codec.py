"""Bytes to messages and back: strict in what we accept, exact in what we echo.

`decode` refuses what JSON forbids or parsers disagree about: invalid UTF-8, a
byte order mark, NaN, lone surrogates, duplicate members, deep nesting. Request
ids are kept as the bytes that were sent, so they come back exactly.
It does not split a stream into messages (`framing`) and knows no method.
"""

import json
import re
from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from core_server.jsonrpc import codes
from core_server.jsonrpc.depth import has_more, is_deeper, openings
from core_server.jsonrpc.framing import HEAD_BYTES
from core_server.jsonrpc.messages import Message

MAX_DEPTH: Final = 128
"""Deeper documents come from attackers; our own are below 16, the reference's below 32."""

MAX_OPENINGS: Final = 2**20
"""Arrays and objects of one message. Each costs a decoder as much as thirty bytes of text, so
they and not its bytes are what others wait for. Data of 16 MiB has half as many; what a text
quotes is not counted."""

MAX_MEMBERS: Final = 64
"""Of a message; seven mean something, and each other one costs a step of Python."""

MAX_UNKNOWN_BYTES: Final = 64 * 1024
"""In members that mean nothing and between members: they have to be read a second time."""

NULL_ID: Final = b"null"

NEWLINE, RETURN = b"\n\r"
"""What must not stand in a line; as numbers, since looking for them takes a tenth of the time."""

_INT64_MAX = 2**63 - 1
_INT64_MIN = -(2**63)
_INT64_DIGITS = 20  # with the sign
_SURELY_INT64_DIGITS = 18
_QUOTE = ord('"')
_LENIENT_BYTES: Final = 64 * 1024
_SHALLOW_BYTES = 2 * MAX_DEPTH  # each level takes two bracket bytes


_DECODE = msgspec.json.Decoder(Message).decode
_RAW_DECODE = msgspec.json.Decoder(Raw).decode


class _OnlyId(msgspec.Struct):
    id: Raw | UnsetType = UNSET


_ID_DECODER = msgspec.json.Decoder(_OnlyId)
_ENCODER = msgspec.json.Encoder()


class MalformedError(Exception):
    """The bytes are no message. The peer's fault; tell it and go on.

    Attributes:
        code: -32700 when it is not JSON, -32600 when it is not a request.
        id: The request's id as sent where it can be read, else `null`.
        is_response: They were meant as an answer, which has no answer itself: an error under
            its id would look like the answer to the peer's own request of that id.
    """

    def __init__(
        self,
        code: int,
        message: str,
        request_id: bytes = NULL_ID,
        *,
        is_response: bool = False,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.id = request_id
        self.is_response = is_response


def decode(data: bytes) -> Message:
    """Decode one message; the result is a request, a notification or a response.

    What it costs depends on the bytes, not on what they say: one decoding, and where the
    members do not account for every byte a look at what the unknown ones hold.

    Raises:
        MalformedError: with the error to answer (JSON-RPC 2.0 section 5.1).
    """
    size = len(data)
    opened = openings(data) if size > _SHALLOW_BYTES else 0
    if opened > MAX_OPENINGS and has_more(data, MAX_OPENINGS):
        raise _too_many_brackets(data)
    message = _decoded(data)
    try:
        if not data.isascii():
            data.decode()
        usual = _is_usual(message, size)
        if not usual:
            _require_meaning(message)
        if opened > MAX_DEPTH and is_deeper(data, MAX_DEPTH):
            raise _too_deep(_readable_id(message))
        unknown_bytes = 0 if usual else _unknown_bytes(message, size)
        if unknown_bytes:
            _look_at_members(message, data, unknown_bytes)
    except UnicodeDecodeError:
        raise _not_utf8(is_response=_answers(message)) from None
    except MalformedError as error:
        error.is_response = _answers(message)
        raise
    return message


def _decoded(data: bytes) -> Message:
    """What the decoder makes of it, or the error to answer."""
    try:
        return _DECODE(data)
    except msgspec.ValidationError as error:
        raise _not_a_message(data, str(error)) from None
    except UnicodeDecodeError:
        raise _not_utf8() from None
    except msgspec.DecodeError as error:
        if is_bad_utf8(error):
            raise _not_utf8() from None
        known = _id_in_bad_text(data)
        raise MalformedError(codes.PARSE_ERROR, f"Parse error: {error}", known) from None
    except RecursionError:
        raise _too_deep(NULL_ID) from None


_USUAL_BYTES: Final = (
    len(b'{"id":,"method":"","params":}'),
    len(b'{"id": , "method": "", "params": }'),
)
"""Of a request without its values; compact, and with a blank after each colon and comma."""


def _is_usual(message: Message, size: int) -> bool:
    """Whether it is a request whose id, method and params account for every byte.

    Nearly all are, and there is nothing more to be asked about them: where the blanks are
    there is no room for a member that means something.
    """
    if message.id is UNSET or message.method is UNSET or message.params is UNSET:
        return False
    return size - len(message.id) - len(message.method) - len(message.params) in _USUAL_BYTES


def _require_meaning(message: Message) -> None:
    """A message has a method or exactly one of result and error, and says no other version."""
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


def _answers(message: Message) -> bool:
    """Whether it was meant as an answer."""
    said = message.result is not UNSET or message.error is not UNSET
    return said and message.method is UNSET


def request_id(message: Message) -> bytes:
    """The id exactly as sent: the JSON text of a string or a 64-bit integer.

    Raises:
        MalformedError: -32600, when it is anything else (null, a fraction, too large).
    """
    raw = NULL_ID if message.id is UNSET else bytes(message.id)
    if raw[0] == _QUOTE or (raw.isdigit() and len(raw) <= _SURELY_INT64_DIGITS):
        return raw
    if _is_integer(raw) and _INT64_MIN <= int(raw) <= _INT64_MAX:
        return raw
    raise MalformedError(
        codes.INVALID_REQUEST, "Invalid request: id must be a string or a 64-bit integer"
    )


_ID_IN_HEAD = re.compile(
    rb'\s*\{\s*(?:"(?:jsonrpc|method)"\s*:\s*"[^"\\]*"\s*,\s*)*'
    rb'"id"\s*:\s*("(?:[^"\\\x00-\x1f]|\\["\\/bfnrt])*"|-?\d+)\s*[,}]'
)


def id_in_head(head: bytes) -> bytes:
    """The id of a message of which only the first bytes are known, else `null`.

    Found where encoders put it: before `params`.
    """
    found = _ID_IN_HEAD.match(head)
    if found is None or (found[1][:1] != b'"' and not _is_integer(found[1])):
        return NULL_ID
    return found[1]


_ANSWER_HEAD = re.compile(
    rb'\s*\{\s*(?:"(?:jsonrpc|id)"\s*:\s*(?:"(?:[^"\\]|\\.)*"|-?\d+)\s*,\s*)*"(?:result|error)"\s*:',
    re.DOTALL,
)


def _too_many_brackets(data: bytes) -> MalformedError:
    """Said without decoding it, which is what would take so long."""
    head = data[:HEAD_BYTES]
    return MalformedError(
        codes.INVALID_REQUEST,
        f"Invalid request: more than {MAX_OPENINGS} arrays and objects",
        id_in_head(head),
        is_response=_ANSWER_HEAD.match(head) is not None,
    )


class _Members(list[tuple[str, object]]):
    """The members of an object, those that came twice too."""


def _no_json(name: str) -> None:
    raise ValueError(name)  # NaN, Infinity: RFC 8259 has no such number


def _id_in_bad_text(data: bytes) -> bytes:
    """The id of a message whose only fault is a lone surrogate in a text, else `null`.

    Whoever asked waits for its answer. Looked for in short messages only: this reader is slow.
    """
    if len(data) > _LENIENT_BYTES:
        return NULL_ID
    try:
        members = json.loads(data.decode(), object_pairs_hook=_Members, parse_constant=_no_json)
    except (ValueError, RecursionError):
        return NULL_ID
    if not isinstance(members, _Members):
        return NULL_ID
    found = [value for name, value in members if name == "id"]
    if len(found) != 1 or type(found[0]) not in (int, str):
        return NULL_ID
    try:
        return _readable_id(Message(id=Raw(_ENCODER.encode(found[0]))))
    except (UnicodeEncodeError, OverflowError):
        return NULL_ID


def _is_integer(raw: bytes) -> bool:
    return len(raw) <= _INT64_DIGITS and raw.removeprefix(b"-").isdigit()


def _unknown_bytes(message: Message, size: int) -> int:
    """How many bytes the known members do not account for; then none came twice if it is 0.

    Knows a compact document and one with a blank after each colon and comma, as
    most encoders write them; anything else is looked at closely.
    Unrolled, because every message of every client passes here.
    """
    count, total = 0, 1
    if message.method is not UNSET:
        count, total = 1, 13 + len(message.method)
    if message.id is not UNSET:
        count += 1
        total += 6 + len(message.id)
    if message.params is not UNSET:
        count += 1
        total += 10 + len(message.params)
    if message.trace is not UNSET:
        count += 1
        total += 9 + len(message.trace)
    if message.jsonrpc is not UNSET:
        count += 1
        total += 11 + len(message.jsonrpc)
    if message.result is not UNSET:
        count += 1
        total += 10 + len(message.result)
    if message.error is not UNSET:
        count += 1
        total += 9 + len(message.error)
    return 0 if size in (total, total + 2 * count - 1) else max(1, size - total)


_MEMBER = re.compile(rb'[ \t\r\n]*+("(?:[^"\\]|\\.)*+")[ \t\r\n]*+:[ \t\r\n]*+', re.DOTALL)
_PLAIN_VALUE = re.compile(rb'(?:"[^"\\]*+"|[-+.\w]++)[ \t\r\n]*+([,}])')
_VALUE_END = re.compile(r"trailing characters \(byte (\d+)\)").search
_BEHIND_VALUE = re.compile(rb"[ \t\r\n]*+([,}])")


def _look_at_members(message: Message, data: bytes, unknown_bytes: int) -> None:
    """Go through the members of the outermost object; inner ones are their reader's business.

    Of a member that came twice the decoder kept the last, so the first is not what was kept,
    or the name is seen again.

    Raises:
        MalformedError: one came twice, there are more than `MAX_MEMBERS`, or what means
            nothing is more than `MAX_UNKNOWN_BYTES`.
    """
    if unknown_bytes > MAX_UNKNOWN_BYTES:
        why = f"Invalid request: more than {MAX_UNKNOWN_BYTES} bytes that mean nothing here"
        raise MalformedError(codes.INVALID_REQUEST, why, _readable_id(message))
    kept = {
        name: value
        for name in message.__struct_fields__
        if name != "method" and (value := getattr(message, name)) is not UNSET
    }
    seen: set[str] = set()
    at = data.index(b"{") + 1
    while (member := _MEMBER.match(data, at)) is not None:
        name = msgspec.json.decode(member[1], type=str)
        if name in seen:
            raise _twice(message, name)
        if len(seen) == MAX_MEMBERS:
            why = f"Invalid request: more than {MAX_MEMBERS} members"
            raise MalformedError(codes.INVALID_REQUEST, why, _readable_id(message))
        seen.add(name)
        at = member.end()
        value = kept.get(name)
        if value is None:
            plain = _PLAIN_VALUE.match(data, at)
            if plain is not None:
                at = plain.end()
                continue
            at = _end_of_value(data, at)
        elif data.startswith(value, at):
            at += len(value)
        else:
            raise _twice(message, name)
        behind = _BEHIND_VALUE.match(data, at)
        if behind is None:  # the value kept begins like the first one
            raise _twice(message, name)
        at = behind.end()


def _end_of_value(data: bytes, at: int) -> int:
    """Where the value that begins there ends; the decoder says where it stumbled.

    It is a member that means nothing here, and the message has few bytes of those: but for
    one that came twice, and that is refused.
    """
    try:
        _RAW_DECODE(memoryview(data)[at:])
    except msgspec.DecodeError as error:
        place = _VALUE_END(str(error))
        assert place is not None, "msgspec says where a value ends"
        return at + int(place[1]) - 1
    return len(data)  # never: the object's end is behind it


def is_bad_utf8(error: msgspec.DecodeError) -> bool:
    """Whether a string is no UTF-8: msgspec says so itself since 0.23, of some strings."""
    return str(error).startswith("Invalid UTF-8")


def _not_utf8(*, is_response: bool = False) -> MalformedError:
    return MalformedError(codes.PARSE_ERROR, "Parse error: not UTF-8", is_response=is_response)


def _twice(message: Message, name: str) -> MalformedError:
    why = f"Invalid request: duplicate field `{name[:64]}`"
    known = NULL_ID if name == "id" else _readable_id(message)
    return MalformedError(codes.INVALID_REQUEST, why, known)


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
    if NEWLINE in value or RETURN in value:
        return value.replace(b"\n", b" ").replace(b"\r", b" ")
    return value
