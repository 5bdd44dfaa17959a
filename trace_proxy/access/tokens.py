"""What a client shows at the door, and whether it is good: bearer tokens.

The forms of the header, the order of the checks and the texts of the refusals are those
of `codex app-server`, to the letter: its clients must not see a difference. A browser
cannot set headers on a websocket, so it may offer the subprotocol `bearer.TOKEN` instead.

    bearer_of(["Bearer secret"], [])  →  "secret"

This module compares; what is known comes from outside, and so does the time. Signed
tokens are judged by `signed_tokens`.
"""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from trace_proxy.access.policy import Denial

PROTOCOL_PREFIX: Final = "bearer."
"""Before the token, in `Sec-WebSocket-Protocol`."""

USER_CHARS: Final = 256
"""Of a user's name, as of a client's; what is longer was made to fill our memory."""

MAX_BEFORE: Final = 4
"""Values kept from before: who changes a file more often than that is not heard sooner."""

ValueT = TypeVar("ValueT")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who was let in.

    Attributes:
        user: `user.id` on spans, in logs and metrics; empty when the token names nobody.
        expires_s: When the token does, Unix seconds; None: it does not.
    """

    user: str = ""
    expires_s: int | None = None


def user_name(text: str) -> str:
    """A name that every log and every trace can show: printable, and not longer than one is."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text[:USER_CHARS])


def refusal(reason: str, text: str) -> Denial:
    """Answer 401; `reason` is the constant word for logs and metrics."""
    return Denial(401, reason, text)


MISSING: Final = refusal("token_missing", "missing websocket bearer token")
INVALID: Final = refusal("token_invalid", "invalid websocket bearer token")
INVALID_HEADER: Final = refusal("authorization_invalid", "invalid authorization header")
NO_CERTIFICATE: Final = refusal("certificate_missing", "missing client certificate")
"""Not one of the reference server's: it has no TLS."""


def bearer_of(authorizations: Sequence[str], protocols: Sequence[str]) -> str | Denial:
    """The token that a request shows, or why it shows none.

    Args:
        authorizations: Every value of `Authorization`, in order: the first one counts.
        protocols: The subprotocols it offers, looked at only when there is no such header.
    """
    if not authorizations:
        offered = bearer_protocol(protocols)
        if offered is None:
            return MISSING
        return offered.removeprefix(PROTOCOL_PREFIX) if offered.isascii() else INVALID
    value = authorizations[0]
    if not (value.isascii() and value.replace("\t", " ").isprintable()):
        return INVALID_HEADER
    scheme, _, rest = value.strip(" \t").partition(" ")
    token = rest.strip(" \t")
    if scheme.lower() != "bearer" or not token:
        return INVALID_HEADER
    return token


def bearer_protocol(protocols: Sequence[str]) -> str | None:
    """The subprotocol that carries a token, None when none is offered."""
    for offered in protocols:
        if offered.startswith(PROTOCOL_PREFIX) and offered != PROTOCOL_PREFIX:
            return offered
    return None


class Overlap(Generic[ValueT]):
    """A value that changes now and then; what it was before stays good for a while.

    Args:
        value: The first one.
        overlap_s: How long a value is good after it was replaced; 0: not at all.
    """

    def __init__(self, value: ValueT, overlap_s: float) -> None:
        self._value = value
        self._overlap_s = overlap_s
        self._before: list[tuple[float, ValueT]] = []

    def __repr__(self) -> str:
        return f"<Overlap before={len(self._before)}>"

    @property
    def newest(self) -> ValueT:
        """The value as it is now."""
        return self._value

    @property
    def next_end_s(self) -> float | None:
        """When the next one from before stops being good; monotonic seconds."""
        return min((end_s for end_s, _ in self._before), default=None)

    def replace(self, value: ValueT, now_s: float) -> None:
        """It has changed. The value itself coming back is no value from before."""
        kept = [each for each in self._before if each[1] != value]
        self._before = [(now_s + self._overlap_s, self._value), *kept][:MAX_BEFORE]
        self._value = value

    def good(self, now_s: float) -> list[ValueT]:
        """All that are good now, the newest first; forgets the others."""
        self._before = [each for each in self._before if now_s < each[0]]
        return [self._value, *(value for _, value in self._before)]


def digest_of(token: str) -> bytes:
    """What is kept of a token: enough to know it again, not enough to use it."""
    return hashlib.sha256(token.encode()).digest()


def check_capability(token: str, digests: Sequence[bytes]) -> Identity | Denial:
    """Whether the token is one of those known; takes as long for any that is not."""
    shown, known = digest_of(token), False
    for digest in digests:
        known |= hmac.compare_digest(shown, digest)
    return Identity() if known else INVALID
