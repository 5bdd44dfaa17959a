"""A batch of bytes to a plain HTTP collector, with the retries that OTLP asks for.

As the stock exporter has it: what may pass (no connection, 429, 502, 503, 504) is tried
again, after `retry-after` or an exponential backoff, as long as the time for one batch
lasts; then the batch is given up.  A next try that would be too late is not waited for.

https://opentelemetry.io/docs/specs/otlp/#failures
"""

import gzip
import math
import random
import threading
import time
import zlib
from collections.abc import Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from trace_proxy.runtime.telemetry.otlp.direct_post import Answer, DirectPost, NoAnswerError
from trace_proxy.runtime.telemetry.otlp.settings import Compression, OtlpSettings

MAX_TRIES: Final = 6
JITTER: Final = 0.2
"""Of a backoff: a thousand proxies must not come back in the same moment."""

SHUT_DOWN: Final = "shut down meanwhile"

_PASSING: Final = frozenset({429, 502, 503, 504})
_LEVEL: Final = 1
"""Of compression: spans repeat themselves so much that more effort gains a few percent."""


class OtlpClient:
    """Sends from one thread at a time; `close` may come from any.

    Args:
        url: Where to post.
        settings: How.
    """

    def __init__(self, url: str, settings: OtlpSettings) -> None:
        self._post = DirectPost(url, settings.headers)
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
        parts = self._compressed(parts)
        end_s = time.monotonic() + self._timeout_s
        for attempt in range(MAX_TRIES):
            wait_s = 2**attempt * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - no secret
            try:
                answer = self._post.post(parts, end_s - time.monotonic())
            except NoAnswerError as error:
                reason = str(error)
            else:
                if 200 <= answer.status < 400:
                    return ""
                reason = f"the collector answered {answer.status}"
                if answer.status not in _PASSING:
                    return reason
                wait_s = _retry_after_s(answer, wait_s)
            if attempt + 1 == MAX_TRIES or wait_s > end_s - time.monotonic():
                return reason
            if self._closing.wait(wait_s):
                break
        return SHUT_DOWN

    def close(self) -> None:
        """Give up what is under way; safe from any thread, and twice."""
        self._closing.set()
        self._post.close()

    def _compressed(self, parts: Sequence[bytes]) -> Sequence[bytes]:
        match self._compression:
            case Compression.NONE:
                return parts
            case Compression.GZIP:
                return (gzip.compress(b"".join(parts), _LEVEL),)
            case Compression.DEFLATE:
                return (zlib.compress(b"".join(parts), _LEVEL),)


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
