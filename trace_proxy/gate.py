"""What a client may send and hear, given what it agreed to in `initialize`.

The proxy keeps this for its cores, which know one client only. Texts and codes are
the reference server's, so that clients which match on them work unchanged.
Whether a method exists and its params are well formed is the core's to say; and
for notifications from a client nothing is refused: the reference ignores them all.
"""

from typing import Final

import msgspec

from trace_proxy import experimental
from trace_proxy.refusal import ALREADY_INITIALIZED, NOT_INITIALIZED, Refusal, invalid_request

MAX_NAME_CHARS: Final = 1024
"""For clientInfo: kept as long as the connection, and real names are below 40."""

MAX_OPT_OUTS: Final = 1024
"""The reference has 86 notifications; each name kept costs memory on every connection."""

_MAX_ECHO_CHARS: Final = 200
"""How much of a wrong value is quoted back: enough to find it."""

_GUARDED: Final = experimental.METHODS | experimental.PARAMS.keys() | {"initialize"}
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


def refuse(session: Session | None, method: str, params: bytes | None) -> Refusal | None:
    """Judge a request by the state of its connection; None lets it pass.

    Args:
        session: The connection's, or None before a successful `initialize`.
        method: The request's method.
        params: Its params as JSON, None when it has none.
    """
    if session is None:
        return None if method == "initialize" else NOT_INITIALIZED
    if method not in _GUARDED:
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
    except (msgspec.DecodeError, RecursionError):
        return None  # not an object: the core says what is wrong with it
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
        return _session(_value(params))
    except _ShapeError as error:
        return invalid_request(str(error))


class _ShapeError(Exception):
    """The params are not those of `initialize`; the text goes to the client."""


def _value(params: bytes | None) -> object:
    try:
        value: object = msgspec.json.decode(params or b"null")
    except (msgspec.DecodeError, RecursionError) as error:
        raise _ShapeError(f"Invalid request: {error}") from None
    if value is None:
        raise _ShapeError("Invalid request: missing field `params`")
    return value


def _session(params: object) -> Session:
    top = _struct(params, "InitializeParams")
    info = _struct(_required(top, "clientInfo"), "ClientInfo")
    name = _string(_required(info, "name"))
    version = _string(_required(info, "version"))
    title = info.get("title")
    given = top.get("capabilities")
    capabilities = {} if given is None else _struct(given, "InitializeCapabilities")
    for flag in ("requestAttestation", "requiredHumanApproval"):
        _boolean(capabilities.get(flag, False))
    session = Session(
        client_name=name,
        client_version=version,
        client_title=None if title is None else _string(title),
        experimental=_boolean(capabilities.get("experimentalApi", False)),
        opted_out=_opted_out(capabilities.get("optOutNotificationMethods")),
    )
    _check_name(name)
    return session


def _struct(value: object, name: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _wrong_type(value, f"struct {name}")
    return value


def _required(members: dict[str, object], name: str) -> object:
    if name not in members:
        raise _ShapeError(f"Invalid request: missing field `{name}`")
    return members[name]


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise _wrong_type(value, "a string")
    if len(value) > MAX_NAME_CHARS:
        raise _ShapeError(
            f"Invalid request: a string of {len(value)} characters, at most {MAX_NAME_CHARS} fit"
        )
    return value


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise _wrong_type(value, "a boolean")
    return value


def _opted_out(value: object) -> frozenset[str]:
    if value is None:
        return frozenset()
    if not isinstance(value, list):
        raise _wrong_type(value, "a sequence")
    if len(value) > MAX_OPT_OUTS:
        raise _ShapeError(
            f"Invalid request: optOutNotificationMethods has {len(value)} names, "
            f"at most {MAX_OPT_OUTS} fit"
        )
    return frozenset(_string(name) for name in value)


def _check_name(name: str) -> None:
    """RFC 9110 section 5.5: visible characters, blanks and tabs; the core puts it into a header."""
    if any((char < " " and char != "\t") or char == "\x7f" for char in name):
        raise _ShapeError(f"Invalid clientInfo.name: '{name}'. Must be a valid HTTP header value.")


def _wrong_type(value: object, expected: str) -> _ShapeError:
    return _ShapeError(f"Invalid request: invalid type: {_described(value)}, expected {expected}")


def _described(value: object) -> str:
    """A JSON value in the words of the reference's parser (serde's `Unexpected`)."""
    if isinstance(value, str):
        return "string " + msgspec.json.encode(value[:_MAX_ECHO_CHARS]).decode()
    if isinstance(value, bool):
        return f"boolean `{str(value).lower()}`"
    if isinstance(value, int):
        return f"integer `{value}`"
    if isinstance(value, float):
        return f"floating point `{value}`"
    return {type(None): "null", list: "sequence"}.get(type(value), "map")
