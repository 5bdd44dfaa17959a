"""A batch of bytes to an HTTP collector, with the retries that OTLP asks for.

As the stock exporter has it: what may pass (no connection, 429, 502, 503, 504) is tried
again, after `retry-after` or an exponential backoff, as long as the time for one batch
lasts; then the batch is given up.  A next try that would be too late is not waited for.
301, 307 and 308 are followed once, with the body; any other 3xx is a failure.  Headers
that may hold a key go to another host only if it is the same one.

https://opentelemetry.io/docs/specs/otlp/#failures
"""

import gzip
import math
import random
import threading
import time
import zlib
from collections.abc import Mapping, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urljoin, urlsplit

from trace_proxy.runtime.telemetry.otlp.answer import A_PAGE, read_answer
from trace_proxy.runtime.telemetry.otlp.http_post import Answer, HttpPost, NoAnswerError
from trace_proxy.runtime.telemetry.otlp.settings import OUR_HEADERS, Compression, OtlpSettings

MAX_TRIES: Final = 6
JITTER: Final = 0.2
"""Of a backoff: a thousand proxies must not come back in the same moment."""

SHUT_DOWN: Final = "shut down meanwhile"

_MOVED: Final = frozenset({301, 307, 308})
"""Elsewhere, with the same method and body: RFC 9110, section 15.4."""

_PASSING: Final = frozenset({429, 502, 503, 504})
_LEVEL: Final = 1
"""Of compression: spans repeat themselves so much that more effort gains a few percent."""


class OtlpClient:
    """Sends from one thread at a time; `close` may come from any.

    Args:
        url: Where to post.
        settings: How.

    Attributes:
        refused_spans: Of the latest batch that was accepted.
        warning: What the collector said about it; its words.
    """

    def __init__(self, url: str, settings: OtlpSettings) -> None:
        self.refused_spans = 0
        self.warning = ""
        self._url, self._settings = url, settings
        self._post = HttpPost(url, settings.headers, settings.tls)
        self._moved: tuple[str, HttpPost] | None = None
        self._timeout_s = settings.timeout_s
        self._compression = settings.compression
        self._closing = threading.Event()

    def send(self, parts: Sequence[bytes]) -> str:
        """Post one batch; blocks until it is accepted or given up.

        Args:
            parts: Of the body, at most some hundred.

        Returns:
            Why it was given up, in words that quote nothing; empty when it was accepted.
        """
        body = self._compressed(b"".join(parts))
        end_s = time.monotonic() + self._timeout_s
        for attempt in range(MAX_TRIES):
            wait_s = 2**attempt * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - no secret
            try:
                answer = self._answer(body, end_s)
            except NoAnswerError as error:
                reason = str(error)
            else:
                if 200 <= answer.status < 300:
                    return self._taken(answer)
                reason = f"the collector answered {answer.status}"
                if answer.status not in _PASSING:
                    return reason
                wait_s = _retry_after_s(answer, wait_s)
            if attempt + 1 == MAX_TRIES or wait_s > end_s - time.monotonic():
                return reason
            if self._closing.wait(wait_s):
                break
        return SHUT_DOWN

    def _answer(self, body: bytes, end_s: float) -> Answer:
        """Ask, and ask where the collector says it is; once."""
        answer = self._post.post(body, end_s - time.monotonic())
        if answer.status not in _MOVED or not answer.location:
            return answer
        url = _there(self._url, answer.location)
        if url is None:
            return answer
        if self._moved is None or self._moved[0] != url:
            headers = _for_another(url, self._url, self._settings)
            self._forget_moved()
            self._moved = url, HttpPost(url, headers, self._settings.tls)
            if self._closing.is_set():  # it came before `close` could see this one
                self._forget_moved()
        return self._moved[1].post(body, end_s - time.monotonic()) if self._moved else answer

    def _forget_moved(self) -> None:
        moved, self._moved = self._moved, None
        if moved is not None:
            moved[1].close()

    def _taken(self, answer: Answer) -> str:
        taken = read_answer(answer)
        if taken is None:
            return A_PAGE
        self.refused_spans, self.warning = taken.refused, taken.message
        return ""

    def close(self) -> None:
        """Give up what is under way; safe from any thread, and twice."""
        self._closing.set()
        self._post.close()
        self._forget_moved()

    def _compressed(self, body: bytes) -> bytes:
        match self._compression:
            case Compression.NONE:
                return body
            case Compression.GZIP:
                return gzip.compress(body, _LEVEL)
            case Compression.DEFLATE:
                return zlib.compress(body, _LEVEL)


def _there(url: str, location: str) -> str | None:
    """Where a `location` leads from a URL; None when it is no HTTP server."""
    try:
        there = urljoin(url, location)
        parts = urlsplit(there)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        return None
    return there if usable else None


def _for_another(url: str, ours: str, settings: OtlpSettings) -> Mapping[str, str]:
    """The headers for where we were sent: another host, or one in the clear, gets no keys."""
    there, here = urlsplit(url), urlsplit(ours)
    same_host = there.hostname == here.hostname
    if same_host and (there.scheme == "https" or here.scheme == "http"):
        return settings.headers
    return {name: settings.headers[name] for name in OUR_HEADERS & settings.headers.keys()}


def _retry_after_s(answer: Answer, default_s: float) -> float:
    """Seconds, or a date (RFC 9110, section 10.2.3)."""
    text = answer.retry_after.strip()
    try:
        seconds = float(text)
    except ValueError:
        seconds = _until_s(text)
    return max(seconds, 0.0) if math.isfinite(seconds) else default_s


def _until_s(date: str) -> float:
    try:
        when = parsedate_to_datetime(date)
    except (TypeError, ValueError):
        return math.nan
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return when.timestamp() - time.time()
