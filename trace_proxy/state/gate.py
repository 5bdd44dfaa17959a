"""What a client may send and hear, given what it agreed to in `initialize`.

The proxy keeps this for its cores, which know one client only. Texts and codes are
the reference server's, so that clients which match on them work unchanged.
Whether a method exists and its params are well formed is the core's to say; and
for notifications from a client nothing is refused: the reference ignores them all.
"""

import re
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
from trace_proxy.state.shape import (
    Reader,
    ShapeError,
    boolean,
    optional,
    string,
    struct,
    wrong_type,
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
    except ShapeError as error:
        return invalid_request(str(error))


def _opened(params: bytes | None) -> Session:
    try:
        value: object = msgspec.json.decode(params or b"null")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ShapeError(f"Invalid request: {error}") from None
    if value is None:
        raise ShapeError("Invalid request: missing field `params`")
    given = struct(value, "InitializeParams", _INITIALIZE, required=("clientInfo",))
    info = msgspec.convert(given["clientInfo"], _ClientInfo)
    if _NO_HEADER.search(info.name):
        raise ShapeError(
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
    return string(value, MAX_NAME_CHARS)


def _names(value: object) -> frozenset[str]:
    if not isinstance(value, list):
        raise wrong_type(value, "a sequence")
    if len(value) > MAX_OPT_OUTS:
        raise ShapeError(
            f"Invalid request: optOutNotificationMethods has {len(value)} names, "
            f"at most {MAX_OPT_OUTS} are taken"
        )
    return frozenset(map(_name, value))


_CLIENT_INFO: Final[dict[str, Reader]] = {
    "name": _name,
    "version": _name,
    "title": optional(_name),
}
_CAPABILITIES: Final[dict[str, Reader]] = {
    "experimentalApi": boolean,
    "requestAttestation": boolean,
    "optOutNotificationMethods": optional(_names),
}
_INITIALIZE: Final[dict[str, Reader]] = {
    "clientInfo": partial(
        struct, name="ClientInfo", readers=_CLIENT_INFO, required=("name", "version")
    ),
    "capabilities": optional(
        partial(struct, name="InitializeCapabilities", readers=_CAPABILITIES)
    ),
}
