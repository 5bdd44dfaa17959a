"""What went wrong with a sample, and whether it may be tried again. Pure.

The texts follow the reference server, because clients show them and some parse them.
It knows no HTTP library: `openai_client` brings status, headers and body.
"""

from http import HTTPStatus

import msgspec

from core_server.engines.base import EngineError

HIGH_DEMAND = "We\u2019re currently experiencing high demand, which may cause temporary errors."

# An error page can be long; so much of it tells the cause.
_MAX_BODY_CHARS = 2_000

_CONTEXT_CODES = frozenset({"context_length_exceeded"})
_QUOTA_CODES = frozenset({"insufficient_quota", "usage_limit_reached", "usage_not_included"})
_OVERLOAD_CODES = frozenset({"server_is_overloaded", "slow_down"})
_RATE_CODES = frozenset({"rate_limit_exceeded"})


class Failure(msgspec.Struct, frozen=True):
    """One failed try.

    Attributes:
        message: For people, one line unless the endpoint's own text has more.
        info: As `EngineError.info`.
        http_status: The endpoint's answer, where there was one.
        retry: Whether another try makes sense.
        retry_after_s: The endpoint asks to wait so long.
        exhausted: Message and info when it was the last try, if they differ.
    """

    message: str
    info: str = "other"
    http_status: int | None = None
    retry: bool = False
    retry_after_s: float | None = None
    exhausted: tuple[str, str] | None = None

    def error(self) -> EngineError:
        """Return the error that ends the sample."""
        message, info = self.exhausted or (self.message, self.info)
        return EngineError(message, info, self.http_status)


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


class Answer(msgspec.Struct, frozen=True):
    """An HTTP answer that is no stream.

    Attributes:
        status: HTTP status, 400 or more.
        body: Its text.
        message: What the endpoint says in it, or the text.
        code: `error.code` of it, or empty.
        retry_after_s: From its headers.
        url: What was asked, without user and password.
    """

    status: int
    body: str
    message: str
    code: str = ""
    retry_after_s: float | None = None
    url: str = ""


def refused(answer: Answer) -> Failure:
    """The endpoint answered with an error status."""
    status = answer.status
    said = answer.message[:_MAX_BODY_CHARS]
    if answer.code in _CONTEXT_CODES or answer.code in _QUOTA_CODES:
        return _with_status(reported(answer.code, said), status)
    if status == HTTPStatus.BAD_REQUEST:
        return Failure(answer.body[:_MAX_BODY_CHARS], "other", status)
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return Failure(
            f"rate limit reached: {said}",
            "rateLimitExceeded",
            status,
            retry=True,
            retry_after_s=answer.retry_after_s,
            exhausted=(
                f"exceeded retry limit, last status: {_named(status)}",
                "responseTooManyFailedAttempts",
            ),
        )
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Failure(
            HIGH_DEMAND,
            "internalServerError",
            status,
            retry=True,
            retry_after_s=answer.retry_after_s,
        )
    info = "unauthorized" if status == HTTPStatus.UNAUTHORIZED else "other"
    message = f"unexpected status {_named(status)}: {said}, url: {answer.url}"
    return Failure(message, info, status, retry=status == HTTPStatus.REQUEST_TIMEOUT)


def reported(code: str, message: str) -> Failure:
    """The stream itself says that the response failed (`response.failed`, `error`)."""
    said = message[:_MAX_BODY_CHARS] or f"the endpoint reported {code or 'an error'}"
    if code in _CONTEXT_CODES:
        return Failure(said, "contextWindowExceeded")
    if code in _QUOTA_CODES:
        return Failure(said, "usageLimitExceeded")
    if code in _OVERLOAD_CODES:
        return Failure(said, "serverOverloaded", retry=True)
    if code in _RATE_CODES:
        return Failure(said, "rateLimitExceeded", retry=True)
    return Failure(said)


def incomplete(reason: str) -> Failure:
    """The endpoint stopped early (`response.incomplete`)."""
    return Failure(f"Incomplete response returned, reason: {reason or 'unknown'}")


def _with_status(failure: Failure, status: int) -> Failure:
    return Failure(failure.message, failure.info, status)


def _named(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
