"""An error that the proxy itself answers a request with, and the few that we use.

A refusal is what a machine decides; encoding it with the request's id is the
caller's business, errors of a core pass through untouched and never become one.
"""

from typing import Final

import msgspec

from core_server.jsonrpc import codes


class Refusal(msgspec.Struct, frozen=True):
    """The `error` member of a response (JSON-RPC 2.0 section 5.1).

    Attributes:
        code: One of `core_server.jsonrpc.codes`.
        message: One plain line for the person who reads the client's log.
        data: For programs; None when there is nothing to add.
    """

    code: int
    message: str
    data: dict[str, object] | None = None


NOT_INITIALIZED: Final = Refusal(codes.INVALID_REQUEST, "Not initialized")
ALREADY_INITIALIZED: Final = Refusal(codes.INVALID_REQUEST, "Already initialized")


def invalid_request(message: str) -> Refusal:
    """A request that breaks the protocol: -32600, as the reference server answers it."""
    return Refusal(codes.INVALID_REQUEST, message)


def overloaded(what: str) -> Refusal:
    """A request shed because of a bound: -32001, to be sent again later.

    Args:
        what: Which bound was met, as the start of a sentence without a full stop.
    """
    return Refusal(
        codes.OVERLOADED,
        f"{what}; retry when some requests have been answered",
        {"reason": "overloaded", "retryable": True},
    )


def draining(retry_after_ms: int) -> Refusal:
    """New work while the proxy waits for its last turns: -32001, to be sent to its successor."""
    return Refusal(
        codes.OVERLOADED,
        "The server is draining; reconnect and retry",
        {"reason": "draining", "retryable": True, "retryAfterMs": retry_after_ms},
    )


def too_large(limit_bytes: int) -> Refusal:
    """A message over `--max-message-bytes`: -32600; its sender goes on."""
    return Refusal(
        codes.INVALID_REQUEST,
        f"The message is larger than {limit_bytes} bytes; send less, or raise the limit",
        {"reason": "messageTooLarge", "limitBytes": limit_bytes},
    )


def core_lost(what: str) -> Refusal:
    """The core that had a request, or should have got it, is gone: -32003, to be sent again.

    Args:
        what: What happened and what to do, one line.
    """
    return Refusal(codes.CORE_LOST, what, {"reason": "coreLost", "retryable": True})


NO_REQUEST_ID: Final = Refusal(
    codes.INVALID_REQUEST, "Invalid request: requestId must be a string or an integer"
)
"""A request names another by what no id can be; only ids can be told apart between clients."""

CORE_ANSWER: Final = Refusal(
    codes.INTERNAL_ERROR,
    "The core's answer is not valid JSON-RPC; this is a fault of the core",
    {"reason": "coreAnswer"},
)
"""A core answered, and what it said can be handed on to nobody."""

NO_CORE: Final = core_lost("No core is up to answer this; retry")
