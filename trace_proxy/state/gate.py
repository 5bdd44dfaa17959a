"""What a client may send and hear, given what it agreed to in `initialize`.

The proxy keeps this for its cores, which know one client only. Texts and codes are
the reference server's, so that clients which match on them work unchanged.
Whether a method exists and its params are well formed is the core's to say; and
for notifications from a client nothing is refused: the reference ignores them all.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import msgspec

from trace_proxy.protocol import experimental
from trace_proxy.protocol.methods import Traits
from trace_proxy.protocol.refusal import (
    ALREADY_INITIALIZED,
    NOT_INITIALIZED,
    Refusal,
    invalid_request,
)

MAX_NAME_CHARS: Final = 1024
"""For clientInfo: kept as long as the connection, and real names are below 40."""

MAX_OPT_OUTS: Final = 1024
"""The reference has 86 notifications; each name kept costs memory on every connection."""

_NO_HEADER: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""What RFC 9110 section 5.5 keeps out of a header, into which a core may put the name."""

_NOT_USED: Final = (b"null", b"false")
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Session(msgspec.Struct, frozen=True):
    """What a connection agreed to in `initialize`; it never changes afterwards.

    Attributes:
        client_name: A valid HTTP header value, at most `MAX_NAME_CHARS` long.
        client_version: As sent.
        client_title: For people, if the client has one.
        experimental: Whether it has the `experimentalApi` capability.
        opted_out: Notification methods that it does not want, exact names.
    """

    client_name: str
    client_version: str
    client_title: str | None
    experimental: bool
    opted_out: frozenset[str]


def refuse(session: Session | None, traits: Traits, params: bytes | None) -> Refusal | None:
    """Judge a request by the state of its connection; None lets it pass.

    Args:
        session: The connection's, or None before a successful `initialize`.
        traits: The request's method.
        params: Its params as JSON, None when it has none.
    """
    method = traits.name
    if session is None:
        return None if method == "initialize" else NOT_INITIALIZED
    if not traits.guarded:
        return None
    if method == "initialize":
        return ALREADY_INITIALIZED
    return None if session.experimental else _refuse_experimental(method, params)


def _refuse_experimental(method: str, params: bytes | None) -> Refusal | None:
    """Decodes instead of searching for the names: faster, and blind to no escape in a key."""
    if method in experimental.METHODS:
        return invalid_request(f"{method} requires experimentalApi capability")
    try:
        fields = _FIELDS.decode(params or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None  # not an object: the core says what is wrong with it
    if bytes(fields.get("approvalPolicy", b""))[:1] == b"{":  # its one variant with members
        return invalid_request("askForApproval.granular requires experimentalApi capability")
    for name in experimental.PARAMS[method]:
        value = fields.get(name)
        if value is not None and bytes(value) not in _NOT_USED:
            return invalid_request(f"{method}.{name} requires experimentalApi capability")
    return None


def hears(session: Session, method: str) -> bool:
    """Whether a notification that concerns this connection is sent to it."""
    if method in session.opted_out:
        return False
    return session.experimental or method not in experimental.NOTIFICATIONS


def open_session(params: bytes | None) -> Session | Refusal:
    """Read the params of `initialize`, JSON or None when there are none.

    Unknown members are ignored. What is wrong is said as the reference says it.
    """
    try:
        return _opened(params)
    except _ShapeError as error:
        return invalid_request(str(error))


def _opened(params: bytes | None) -> Session:
    try:
        value: object = msgspec.json.decode(params or b"null")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _ShapeError(f"Invalid request: {error}") from None
    if value is None:
        raise _ShapeError("Invalid request: missing field `params`")
    given = _struct(value, "InitializeParams", _INITIALIZE, required=("clientInfo",))
    info = msgspec.convert(given["clientInfo"], _ClientInfo)
    if _NO_HEADER.search(info.name):
        raise _ShapeError(
            f"Invalid clientInfo.name: '{info.name}'. Must be a valid HTTP header value."
        )
    agreed = msgspec.convert(given.get("capabilities") or {}, _Capabilities)
    return Session(
        client_name=info.name,
        client_version=info.version,
        client_title=info.title,
        experimental=agreed.experimental,
        opted_out=agreed.opted_out or frozenset(),
    )


class _ClientInfo(msgspec.Struct):
    name: str
    version: str
    title: str | None = None


class _Capabilities(
    msgspec.Struct,
    rename={"experimental": "experimentalApi", "opted_out": "optOutNotificationMethods"},
):
    experimental: bool = False
    opted_out: frozenset[str] | None = None


def _name(value: object) -> str:
    return _string(value, MAX_NAME_CHARS)


def _names(value: object) -> frozenset[str]:
    if not isinstance(value, list):
        raise _wrong_type(value, "a sequence")
    if len(value) > MAX_OPT_OUTS:
        raise _ShapeError(
            f"Invalid request: optOutNotificationMethods has {len(value)} names, "
            f"at most {MAX_OPT_OUTS} are taken"
        )
    return frozenset(map(_name, value))


# Texts are serde's, since clients of the reference match on them: like it, members are judged
# in the order in which they came, and missing ones last.

_MAX_ECHO_CHARS: Final = 200
"""How much of a wrong value is quoted back: enough to find it."""

_Reader = Callable[[object], object]


class _ShapeError(Exception):
    """A value has not the type that it must have; the text is for the client."""


def _struct(
    value: object, name: str, readers: Mapping[str, _Reader], required: tuple[str, ...] = ()
) -> dict[str, object]:
    """Read an object's known members; unknown ones are ignored.

    Raises:
        _ShapeError: It is no object, a member has the wrong type, or one is missing.
    """
    if not isinstance(value, dict):
        raise _wrong_type(value, f"struct {name}")
    members = {key: readers[key](member) for key, member in value.items() if key in readers}
    for key in required:
        if key not in members:
            raise _ShapeError(f"Invalid request: missing field `{key}`")
    return members


def _optional(reader: _Reader) -> _Reader:
    """The same, or null."""
    return lambda value: None if value is None else reader(value)


def _string(value: object, max_chars: int) -> str:
    """Read a string of at most `max_chars`; ours, not the reference's, so that it is bounded.

    Raises:
        _ShapeError: It is none, or longer.
    """
    if not isinstance(value, str):
        raise _wrong_type(value, "a string")
    if len(value) > max_chars:
        raise _ShapeError(
            f"Invalid request: a string has {len(value)} characters, at most {max_chars} are taken"
        )
    return value


def _boolean(value: object) -> bool:
    """Read a boolean.

    Raises:
        _ShapeError: It is none.
    """
    if not isinstance(value, bool):
        raise _wrong_type(value, "a boolean")
    return value


def _wrong_type(value: object, expected: str) -> _ShapeError:
    """What serde says when it expected something else."""
    return _ShapeError(f"Invalid request: invalid type: {_described(value)}, expected {expected}")


def _described(value: object) -> str:
    """What serde calls a value (`serde::de::Unexpected`)."""
    if isinstance(value, str):
        return "string " + msgspec.json.encode(value[:_MAX_ECHO_CHARS]).decode()
    if isinstance(value, bool):
        return f"boolean `{str(value).lower()}`"
    if isinstance(value, int):
        return f"integer `{value}`"
    if isinstance(value, float):
        return f"floating point `{value}`"
    return {type(None): "null", list: "sequence"}.get(type(value), "map")


_CLIENT_INFO: Final[dict[str, _Reader]] = {
    "name": _name,
    "version": _name,
    "title": _optional(_name),
}
_CAPABILITIES: Final[dict[str, _Reader]] = {
    "experimentalApi": _boolean,
    "requestAttestation": _boolean,
    "optOutNotificationMethods": _optional(_names),
}
_INITIALIZE: Final[dict[str, _Reader]] = {
    "clientInfo": partial(
        _struct, name="ClientInfo", readers=_CLIENT_INFO, required=("name", "version")
    ),
    "capabilities": _optional(
        partial(_struct, name="InitializeCapabilities", readers=_CAPABILITIES)
    ),
}
