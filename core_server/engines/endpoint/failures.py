"""What went wrong with a sample, and whether it may be tried again. Pure.

The texts follow the reference server, because clients show them and some parse them; where
the endpoint has words of its own, they are in it. It knows no HTTP library: `client`
brings status, headers and body.
"""

import re
from http import HTTPStatus

import msgspec

from core_server.engines.base import EngineError
from core_server.engines.endpoint.words import Said, said_in_body

HIGH_DEMAND = "We\u2019re currently experiencing high demand, which may cause temporary errors."

_CONTEXT_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error"})
_QUOTA_CODES = frozenset({"insufficient_quota", "usage_limit_reached", "usage_not_included"})
_OVERLOAD_CODES = frozenset({"server_is_overloaded", "slow_down", "overloaded_error"})
_RATE_CODES = frozenset({"rate_limit_exceeded", "rate_limit_error", "429"})
# What a server says of itself, not of the request.
_SERVER_CODES = frozenset(
    {"server_error", "internal_server_error", "internal_error", "api_error", "timeout"}
)
_CONTEXT_WORDS = re.compile(r"maximum context length|context (size|length|window)", re.IGNORECASE)
_TRY_AGAIN = re.compile(r"try again in (\d+(?:\.\d+)?) ?(ms|s)\b", re.IGNORECASE)

# A status that says "not now"; all others of 4xx say "not this".
_NOT_NOW = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_EARLY})
# Of 5xx: what the server will never do.
_NEVER = frozenset({HTTPStatus.NOT_IMPLEMENTED, HTTPStatus.HTTP_VERSION_NOT_SUPPORTED})


class Failure(msgspec.Struct, frozen=True):
    """One failed try.

    Attributes:
        message: For people, one line unless the endpoint's own text has more.
        info: As `EngineError.info`.
        http_status: The endpoint's answer, where there was one.
        retry: Whether another try makes sense.
        retry_after_s: The endpoint asks to wait so long.
        exhausted: Message and info when it was the last try, if they differ; `message`
            becomes the details then.
    """

    message: str
    info: str = "other"
    http_status: int | None = None
    retry: bool = False
    retry_after_s: float | None = None
    exhausted: tuple[str, str] | None = None

    def error(self) -> EngineError:
        """Return the error that ends the sample."""
        if self.exhausted is None:
            return EngineError(self.message, self.info, self.http_status)
        message, info = self.exhausted
        return EngineError(message, info, self.http_status, self.message)


class SampleFailedError(Exception):
    """A try failed; the engine's retry loop decides what comes of it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def disconnected(reason: str) -> Failure:
    """The stream ended before the response was complete."""
    message = f"stream disconnected before completion: {reason}"
    return Failure(message, "responseStreamDisconnected", retry=True)


def not_connected(reason: str) -> Failure:
    """There was no answer at all."""
    return Failure(f"Connection failed: {reason}", "httpConnectionFailed", retry=True)


def unreadable(what: str) -> Failure:
    """The endpoint sent what nobody can read; asked again it would send the same."""
    return Failure(f"the endpoint's answer cannot be read: {what}")


def incomplete(reason: str) -> Failure:
    """The endpoint stopped early (`response.incomplete`)."""
    return Failure(f"Incomplete response returned, reason: {reason or 'unknown'}")


class Answer(msgspec.Struct, frozen=True):
    """An HTTP answer that is no stream.

    Attributes:
        status: HTTP status, 300 or more.
        body: Its bytes, as far as they were read.
        retry_after_s: From its headers.
        url: What was asked, without user, password and query.
        location: Where a redirect points, likewise.
    """

    status: int
    body: bytes = b""
    retry_after_s: float | None = None
    url: str = ""
    location: str = ""


def refused(answer: Answer) -> Failure:
    """The endpoint answered with an error status."""
    said = said_in_body(answer.body)
    known = _known(said)
    if known is not None and not _is_rate(said):
        return msgspec.structs.replace(
            known, http_status=answer.status, retry_after_s=answer.retry_after_s
        )
    if answer.status == HTTPStatus.TOO_MANY_REQUESTS:
        return _rate_limited(answer, said)
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return _server_failed(answer, said)
    message = _unexpected(answer, said)
    if answer.status == HTTPStatus.BAD_REQUEST and said.words:
        raw = answer.body.decode("utf-8", "replace").strip()
        message = raw if raw.startswith("{") else said.words
        return Failure(message, "other", answer.status)
    retry = answer.status in _NOT_NOW
    return Failure(
        message,
        "httpConnectionFailed",
        answer.status,
        retry=retry,
        retry_after_s=answer.retry_after_s if retry else None,
    )


def _rate_limited(answer: Answer, said: Said) -> Failure:
    wait_s = answer.retry_after_s if answer.retry_after_s is not None else _asked_wait_s(said)
    return Failure(
        f"rate limit reached: {said.words or 'the endpoint says no more'}",
        "rateLimitExceeded",
        answer.status,
        retry=True,
        retry_after_s=wait_s,
        exhausted=(
            f"exceeded retry limit, last status: {_named(answer.status)}",
            "responseTooManyFailedAttempts",
        ),
    )


def _server_failed(answer: Answer, said: Said) -> Failure:
    internal = answer.status == HTTPStatus.INTERNAL_SERVER_ERROR
    return Failure(
        HIGH_DEMAND if internal and not said.words else _unexpected(answer, said),
        "internalServerError" if internal else "httpConnectionFailed",
        answer.status,
        retry=answer.status not in _NEVER,
        retry_after_s=answer.retry_after_s,
    )


def reported(said: Said, *, again: bool = True) -> Failure:
    """The endpoint itself says, in a stream or a body, that the response failed.

    Args:
        said: What it says.
        again: Whether it may be asked again where it gives no code.
    """
    known = _known(said)
    if known is not None:
        return known
    number = int(said.code) if said.code.isdecimal() else 0
    retry = (
        (again and not said.code)
        or said.code in _SERVER_CODES
        or number >= HTTPStatus.INTERNAL_SERVER_ERROR
        or number in _NOT_NOW
    )
    return Failure(_worded(said), retry=retry, retry_after_s=_asked_wait_s(said))


def _known(said: Said) -> Failure | None:
    """What some codes and words mean, whichever way they came."""
    words = _worded(said)
    if said.code in _CONTEXT_CODES or _CONTEXT_WORDS.search(said.words):
        return Failure(words, "contextWindowExceeded")
    if said.code in _QUOTA_CODES:
        return Failure(words, "usageLimitExceeded")
    if said.code in _OVERLOAD_CODES:
        return Failure(words, "serverOverloaded", retry=True)
    if _is_rate(said):
        wait_s = _asked_wait_s(said)
        return Failure(words, "rateLimitExceeded", retry=True, retry_after_s=wait_s)
    return None


def _is_rate(said: Said) -> bool:
    return said.code in _RATE_CODES


def _asked_wait_s(said: Said) -> float | None:
    match = _TRY_AGAIN.search(said.words)
    if match is None:
        return None
    return float(match[1]) / (1000 if match[2].lower() == "ms" else 1)


def _worded(said: Said) -> str:
    return said.words or f"the endpoint reported {said.code or 'an error'} and says no more"


def _unexpected(answer: Answer, said: Said) -> str:
    words = said.words or "(no text)"
    if answer.location:
        words = f"it points to {answer.location}"
    return f"unexpected status {_named(answer.status)}: {words}, url: {answer.url}"


def _named(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
