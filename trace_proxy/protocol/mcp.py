"""The Model Context Protocol as a proxy sees it: names, and the members that it reads.

https://modelcontextprotocol.io/specification, 2025-11-25 and the stateless 2026-07-28,
whose requests each name their version in `_meta`. Names of tools and prompts are the
server's, arguments and results are nobody's business here.
"""

import re
from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

METHODS: Final = frozenset(
    """
    initialize ping tools/list tools/call prompts/list prompts/get resources/list
    resources/read resources/subscribe resources/unsubscribe resources/templates/list
    completion/complete logging/setLevel tasks/get tasks/result tasks/list tasks/cancel
    tasks/update server/discover subscriptions/listen
    """.split()
)
"""What a client asks."""

SERVER_REQUESTS: Final = frozenset(
    """
    ping sampling/createMessage elicitation/create roots/list tasks/get tasks/result
    tasks/list tasks/cancel
    """.split()
)
"""What a server asks."""

OF_PROGRAMS: Final = SERVER_REQUESTS - {"elicitation/create", "sampling/createMessage"}
"""What a client answers without asking anybody."""

CALL: Final = "tools/call"
PROMPT: Final = "prompts/get"

NEW_WORK: Final = frozenset({CALL})
"""Refused while draining: a tool runs for as long as it likes."""

NAME_CHARS: Final = 64
"""Of a tool's or prompt's name on a span; the specification asks for 128 at most."""

VERSION_MARK: Final = b'"io.modelcontextprotocol/protocolVersion"'
"""In each request of a client that needs no `initialize` (2026-07-28)."""

_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}")


class _Named(msgspec.Struct):
    name: str | UnsetType = UNSET


class _Called(msgspec.Struct, rename="camel"):
    is_error: bool = False


class _Initialized(msgspec.Struct, rename="camel"):
    protocol_version: str = ""


class _ElicitationResult(msgspec.Struct):
    action: str = ""


_NAMED = msgspec.json.Decoder(_Named)
_CALLED = msgspec.json.Decoder(_Called)
_INITIALIZED = msgspec.json.Decoder(_Initialized)
_ELICITED = msgspec.json.Decoder(_ElicitationResult)
_ACTIONS: Final = {"accept": "accept", "decline": "decline", "cancel": "cancel"}


def is_version(text: str) -> bool:
    """Whether a protocol version is one of MCP: the day it was settled."""
    return _DATE.match(text) is not None


def name_of(params: bytes | None) -> str:
    """The tool or prompt that params name, cut; empty where they name none."""
    try:
        named = _Named() if params is None else _NAMED.decode(params)
    except msgspec.DecodeError:
        return ""
    return named.name[:NAME_CHARS] if isinstance(named.name, str) else ""


def tool_failed(result: bytes) -> bool:
    """Whether a tool says in its result that it failed."""
    try:
        return _CALLED.decode(result).is_error
    except msgspec.DecodeError:
        return False


def version_in(result: bytes) -> str:
    """The version that a server agreed to in `initialize`; empty where it is none."""
    try:
        version = _INITIALIZED.decode(result).protocol_version
    except msgspec.DecodeError:
        return ""
    return version[:32] if is_version(version) else ""


def elicited(result: bytes | None) -> str:
    """How an elicitation was answered: `accept`, `decline`, `cancel`, `other`, `error`."""
    if result is None:
        return "error"
    try:
        return _ACTIONS.get(_ELICITED.decode(result).action, "other")
    except msgspec.DecodeError:
        return "other"


def cancelled(request_id: bytes) -> bytes:
    """The notification that ends a request; the server need not answer it any more.

    Args:
        request_id: JSON of its id, as it was sent.
    """
    params = msgspec.json.encode({"requestId": Raw(request_id), "reason": "the server stops"})
    return b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":%b}' % params
