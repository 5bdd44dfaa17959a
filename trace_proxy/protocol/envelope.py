"""One message as a proxy sees it: routed by a few members, otherwise left alone.

Lines of a core are decoded in one pass into `CoreMessage`, which holds what the
hub routes by; `result`, `error` and notifications travel on as the bytes that came.
Building a message replaces ids and trace context and nothing else.
"""

import re
from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from core_server.jsonrpc import codec, codes


class Routing(msgspec.Struct, gc=False, rename="camel"):
    """The members of params that say whom a message concerns."""

    thread_id: str | None | UnsetType = UNSET
    turn_id: str | None | UnsetType = UNSET
    item_id: str | None | UnsetType = UNSET
    delta: str | UnsetType = UNSET


class _Thread(msgspec.Struct, gc=False, rename="camel"):
    thread_id: str | None | UnsetType = UNSET


class CoreMessage(msgspec.Struct, gc=False):
    """A line of a core."""

    id: int | str | UnsetType = UNSET
    method: str | UnsetType = UNSET
    params: Routing | None | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


class _LooseCoreMessage(msgspec.Struct, gc=False):
    id: int | str | UnsetType = UNSET
    method: str | UnsetType = UNSET
    params: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


class _OnlyParams(msgspec.Struct, gc=False):
    params: Raw = Raw(b"null")


class _Error(msgspec.Struct, gc=False):
    code: int = codes.INTERNAL_ERROR


class GarbageError(Exception):
    """A line of a core that is no JSON-RPC message; says why, without its content.

    Attributes:
        size: Of the line, bytes.
        answers: The id, as it was written, where it can be seen that it would be an answer.
    """

    def __init__(self, why: str, line: bytes) -> None:
        super().__init__(why)
        self.size = len(line)
        self.answers = _answers(line)


_VERSION: Final = rb'(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?'
_WRITTEN_ID: Final = rb'"id"\s*:\s*(-?\d{1,18}|"[\x20\x21\x23-\x5b\x5d-\x7e]{0,128}")\s*'
_ID_FIRST = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*\{\s*" + _VERSION + _WRITTEN_ID + rb',\s*"(?:result|error)"'
)
_ID_LAST = re.compile(rb",\s*" + _WRITTEN_ID + rb"\}\s*\Z")
_ANSWER = re.compile(rb"\s*\{\s*" + _VERSION + rb'"(?:result|error)"')
_TAIL_BYTES: Final = 256


def _answers(line: bytes) -> bytes | None:
    """The id of what would be an answer, found where encoders put it: at either end."""
    found = _ID_FIRST.match(line)
    if found is None and _ANSWER.match(line) is not None:
        found = _ID_LAST.search(line[-_TAIL_BYTES:])
    return None if found is None else found[1]


Decoded = tuple[bytes, CoreMessage]
"""A line of a core, and what a proxy sees of it."""


_CORE = msgspec.json.Decoder(CoreMessage)
_LOOSE = msgspec.json.Decoder(_LooseCoreMessage)
_ROUTING = msgspec.json.Decoder(Routing)
_THREAD = msgspec.json.Decoder(_Thread)
_PARAMS = msgspec.json.Decoder(_OnlyParams)
_ERROR = msgspec.json.Decoder(_Error)
_ENCODE = msgspec.json.Encoder().encode

_ID: Final = b'{"id":'
_OPENING, _CLOSING = b"{}"

_METHOD_JSON: dict[str, bytes] = {}
_METHOD_JSON_BOUND: Final = 1024
"""Cached encodings of method names: all real ones fit five times over."""


def decode_core(line: bytes) -> CoreMessage:
    """Decode a core's line.

    Raises:
        GarbageError: it is not UTF-8, not JSON, or no message.
    """
    try:
        message = _CORE.decode(line)
    except msgspec.ValidationError:
        message = _decode_loosely(line)
    except msgspec.DecodeError as error:
        raise GarbageError(str(error), line) from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise GarbageError(type(error).__name__, line) from None
    if not line.isascii():
        _require_utf8(line)
    if message.method is UNSET and not _is_response(message):
        raise GarbageError("neither a request nor a response", line)
    return message


def decoded(lines: list[bytes]) -> Iterator[Decoded]:
    """The lines of a core with their messages, decoded all at once where they are ordinary.

    Raises:
        GarbageError: by `next`, as `decode_core`; the line after it comes next.
    """
    together = _decode_together(lines) if len(lines) > 1 else None
    return zip(lines, map(decode_core, lines) if together is None else together, strict=True)


def _decode_together(lines: list[bytes]) -> list[CoreMessage] | None:
    """What `decode_core` says of each line, or None where one of them needs a closer look.

    No value can go on across a newline between `}` and `{`, and two in one line would be
    one too many in all: equal numbers mean one value a line.
    """
    if [each for each in lines if not each or each[0] != _OPENING or each[-1] != _CLOSING]:
        return None
    text = b"\n".join(lines)
    try:
        messages = _CORE.decode_lines(text)
        if not text.isascii():
            text.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if len(messages) != len(lines):
        return None
    for each in messages:
        if each.method is UNSET and not (
            each.id is not UNSET and (each.result is UNSET) is not (each.error is UNSET)
        ):  # as `_is_response`, without a call for each of a thousand lines
            return None
    return messages


def _is_response(message: CoreMessage) -> bool:
    return message.id is not UNSET and (message.result is UNSET) is not (message.error is UNSET)


def _decode_loosely(line: bytes) -> CoreMessage:
    """Params whose routing members have other types than ours: relayed, not understood."""
    try:
        loose = _LOOSE.decode(line)
    except msgspec.DecodeError as error:
        raise GarbageError(str(error), line) from None
    return CoreMessage(loose.id, loose.method, UNSET, loose.result, loose.error)


def _require_utf8(line: bytes) -> None:
    try:
        line.decode()
    except UnicodeDecodeError:
        raise GarbageError("not UTF-8", line) from None


def thread_of(params: bytes | None) -> str | None:
    """The thread that a client's params name, if they name one."""
    if params is None:
        return None
    try:
        thread = _THREAD.decode(params).thread_id
    except msgspec.DecodeError:
        return None
    return None if thread is UNSET else thread


class _Named(msgspec.Struct, gc=False, rename="camel"):
    request_id: int | str


_NAMED = msgspec.json.Decoder(_Named)


def named_request(params: bytes | None, member: str = "requestId") -> int | str | None:
    """The request that params name by this member; None where it is missing or no id."""
    try:
        if member == "requestId":
            return _NAMED.decode(params or b"null").request_id
        found = msgspec.json.decode(params or b"null", type=dict[str, Raw]).get(member)
        return None if found is None else msgspec.json.decode(found, type=int | str)
    except msgspec.DecodeError:
        return None


def has_member(params: bytes | None, name: str) -> bool:
    """Whether params are an object with this member, and that is not null."""
    try:
        members = msgspec.json.decode(params or b"null", type=dict[str, Raw] | None)
    except msgspec.DecodeError:
        return False
    return members is not None and bytes(members.get(name, b"null")) != b"null"


def same_id(raw: bytes, request_id: int | str) -> bool:
    """Whether the JSON text of an id is this id, however it is spelled."""
    return bool(msgspec.json.decode(raw) == request_id)


def routing(params: bytes | None) -> Routing:
    """The routing members of a client's params; empty where they have other types."""
    if params is None or b'Id"' not in params:
        return Routing()
    try:
        return _ROUTING.decode(params)
    except msgspec.DecodeError:
        return Routing()


def params_of(line: bytes) -> bytes:
    """The params of a core's line, `null` when it has none."""
    return bytes(_PARAMS.decode(line).params)


def request(core_id: int, method: bytes, params: bytes | None, trace: bytes = b"") -> bytes:
    """A request line for a core, without the newline.

    Args:
        core_id: The router's id.
        method: JSON.
        params: JSON, or None to leave it out.
        trace: The `trace` member with the comma before it, or empty to leave it out.
    """
    if params is None:
        return b'{"id":%d,"method":%b%b}' % (core_id, method, trace)
    if codec.NEWLINE in params or codec.RETURN in params:
        params = codec.one_line(params)
    return b'{"id":%d,"method":%b,"params":%b%b}' % (core_id, method, params, trace)


def request_id(line: bytes) -> int | None:
    """The router's id in a line that `request` built; None for any other line."""
    end = line.find(b",")
    if not line.startswith(_ID) or not line.startswith(b'"method":', end + 1):
        return None
    return int(line[len(_ID) : end])


def notification(method: str, params: bytes | None) -> bytes:
    """A notification, without the newline."""
    name = method_json(method)
    if params is None:
        return b'{"method":%b}' % name
    return b'{"method":%b,"params":%b}' % (name, codec.one_line(params))


def our_notification(method: str, params: object, now_ns: int) -> bytes:
    """A notification of the proxy itself, in the shape in which cores send theirs."""
    return _ENCODE({"method": method, "params": params, "emittedAtMs": now_ns // 10**6})


def server_request(request_id: int, method: str, params: bytes) -> bytes:
    """A request of a core to a client, under the proxy's id."""
    return b'{"method":%b,"id":%d,"params":%b}' % (
        method_json(method),
        request_id,
        params,
    )


def answer(request_id: bytes, message: CoreMessage) -> bytes:
    """A core's response under the client's id."""
    if message.result is not UNSET:
        return b'{"id":%b,"result":%b}' % (request_id, message.result)
    assert message.error is not UNSET
    return b'{"error":%b,"id":%b}' % (message.error, request_id)


def method_json(method: str) -> bytes:
    """A method's name as JSON; known ones are looked up."""
    known = _METHOD_JSON.get(method)
    if known is not None:
        return known
    encoded = _ENCODE(method)
    if len(_METHOD_JSON) < _METHOD_JSON_BOUND and len(encoded) < 128:
        _METHOD_JSON[method] = encoded
    return encoded


def client_answer(core_id: int | str, body: bytes, *, failed: bool) -> bytes:
    """A client's answer to a server request, under the core's id of it."""
    member = b"error" if failed else b"result"
    return b'{"id":%b,"%b":%b}' % (_ENCODE(core_id), member, codec.one_line(body))


def replace_params(line: bytes, params: bytes) -> bytes:
    """The same message with other params; its other members stay as they are."""
    return with_member(line, "params", params)


def with_member(document: bytes, name: str, value: bytes) -> bytes:
    """A JSON object with one member replaced."""
    members = msgspec.json.decode(document, type=dict[str, Raw])
    members[name] = Raw(value)
    return _ENCODE(members)


def error_code(message: CoreMessage) -> int | None:
    """The code of an error response, None of a successful one."""
    if message.error is UNSET:
        return None
    try:
        return _ERROR.decode(message.error).code
    except msgspec.DecodeError:
        return codes.INTERNAL_ERROR
