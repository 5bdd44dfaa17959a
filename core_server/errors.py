"""What may go wrong, in the words of the wire.

Handlers raise `WireError`; the dispatcher alone turns it into an answer. `StartError`
and `ConfigurationError` end the process before it serves. Nothing here knows a method.
"""

from typing import Final

from core_server.jsonrpc import codes

RETRY_AFTER_MS: Final = 1000
"""In a refusal while we drain: whoever starts us again needs about so long."""


class WireError(Exception):
    """An error answer: whoever asked gets exactly this.

    Attributes:
        code: JSON-RPC error code.
        data: Anything JSON can hold, or None to leave it out.
    """

    def __init__(self, code: int, message: str, data: object = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data


class ConfigurationError(Exception):
    """An option or variable is wrong; one line says which, why and what to do."""

    exit_code = 2


class StartError(Exception):
    """The core cannot start or go on; one line says why and what to do."""

    exit_code = 1


def invalid_request(message: str) -> WireError:
    """A request that the state refuses, with the reference's text."""
    return WireError(codes.INVALID_REQUEST, message)


def invalid_params(message: str) -> WireError:
    """Params of the wrong shape; the message names the field."""
    return WireError(codes.INVALID_PARAMS, f"Invalid params: {message}")


def thread_not_found(thread_id: str) -> WireError:
    """A turn method names a thread that is not loaded."""
    return invalid_request(f"thread not found: {thread_id}")


def owned_elsewhere(message: str, url: str, epoch: int) -> WireError:
    """Another host owns the thread: whoever relays may ask there."""
    data = {"reason": "ownedElsewhere", "url": url, "epoch": epoch}
    return WireError(codes.OWNED_ELSEWHERE, message, data)


def no_rollout(thread_id: str) -> WireError:
    """A method that works on stored threads names one that is not stored."""
    return invalid_request(f"no rollout found for thread id {thread_id}")


def storage_failed(reason: str) -> WireError:
    """Nothing was acknowledged, because it could not be written."""
    return WireError(codes.INTERNAL_ERROR, f"storage failed: {reason}", {"reason": "storage"})


def draining() -> WireError:
    """New work while the process is about to end."""
    return WireError(
        codes.OVERLOADED,
        "Server is draining; retry after reconnecting",
        {"reason": "draining", "retryable": True, "retryAfterMs": RETRY_AFTER_MS},
    )


def overloaded(what: str) -> WireError:
    """More at once than we take; try again later."""
    return WireError(
        codes.OVERLOADED, f"Server overloaded: {what}", {"reason": "overloaded", "retryable": True}
    )
