"""Signed bearer tokens: JSON Web Tokens (RFC 7519) with HMAC-SHA-256 and a shared secret.

PyJWT checks the signature, with its algorithm fixed here: what the token's own header
wishes for (`none`, RS256, a key by `kid`, `jku` or `jwk`) is never followed. The claims
are read here, as `codex app-server` reads them: `exp` is required and an integer, `nbf`
may be left out, both with the skew; `iss` and `aud` are looked at where one is expected.
One thing is stricter: a token that names extensions in `crit` is refused, as RFC 7515
section 4.1.11 demands of who does not know them.
"""

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import jwt
import msgspec

from trace_proxy.access.policy import Denial
from trace_proxy.access.tokens import Identity, digest_of, refusal, user_name

INVALID: Final = refusal("jwt_invalid", "invalid websocket jwt")
EXPIRED: Final = refusal("jwt_expired", "expired websocket jwt")
NOT_YET: Final = refusal("jwt_not_yet_valid", "websocket jwt is not valid yet")
WRONG_ISSUER: Final = refusal("jwt_issuer", "websocket jwt issuer mismatch")
WRONG_AUDIENCE: Final = refusal("jwt_audience", "websocket jwt audience mismatch")

MIN_SECRET_BYTES: Final = 32
"""RFC 7518, 3.2: a key of the hash's size or larger."""

MAX_TOKEN_CHARS: Final = 16 * 1024
"""A token of a name and some groups has a few hundred."""

MAX_KNOWN: Final = 2048
"""Tokens that are remembered, twice as many as connections; then it begins anew."""

_ALGORITHMS: Final = ("HS256",)
_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
"""RFC 7515, 3.1, without padding and blanks."""

_INT64: Final = 2**63
_LEAST_ABOVE_DIGITS: Final = 20
"""Numbers of so many digits are outside 64 bits, and need not be made."""

_UNREADABLE: Final = (ValueError, RecursionError, msgspec.ValidationError)

_JWS: Final = jwt.PyJWS(algorithms=list(_ALGORITHMS))


class _Header(msgspec.Struct, frozen=True):
    """What the reference reads of a header; `alg` is PyJWT's to check."""

    alg: str
    typ: str | None = None
    cty: str | None = None
    jku: str | None = None
    jwk: dict[str, object] | None = None
    kid: str | None = None
    x5u: str | None = None
    x5c: list[str] | None = None
    x5t: str | None = None


class _Claims(msgspec.Struct, frozen=True):
    exp: int
    nbf: int | None = None
    iss: str | None = None
    aud: str | list[str] | None = None


@dataclass(frozen=True, slots=True)
class _Verified:
    """What a good signature stands for: only the times can make it bad, or its secret."""

    secret: bytes
    claims: _Claims
    user: str


class SignedTokens:
    """Judges signed tokens.

    Whose signature was good is remembered by digest, since clients come again with the
    token that they have, all at once when a proxy restarts.

    Args:
        issuer: What `iss` must be; None: not looked at.
        audience: What `aud` must be or contain; None: not looked at.
        skew_s: By so much may clocks differ.
    """

    def __init__(self, *, issuer: str | None, audience: str | None, skew_s: int) -> None:
        self._issuer = issuer
        self._audience = audience
        self._skew_s = skew_s
        self._known: dict[bytes, _Verified] = {}

    def __repr__(self) -> str:
        return f"<SignedTokens issuer={self._issuer!r} audience={self._audience!r}>"

    def check(self, token: str, secrets: Sequence[bytes], now_s: float) -> Identity | Denial:
        """Whether it was signed with one of the secrets and holds now (Unix seconds)."""
        digest = digest_of(token)
        verified = self._known.get(digest)
        if verified is None or verified.secret not in secrets:
            verified = _verified(token, secrets)
            if verified is None:
                return INVALID
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[digest] = verified
        refused = self._check_claims(verified.claims, int(now_s))
        return refused or Identity(verified.user, verified.claims.exp)

    def _check_claims(self, claims: _Claims, now_s: int) -> Denial | None:
        if now_s > claims.exp + self._skew_s:
            return EXPIRED
        if claims.nbf is not None and now_s < claims.nbf - self._skew_s:
            return NOT_YET
        if self._issuer is not None and claims.iss != self._issuer:
            return WRONG_ISSUER
        if self._audience is not None:
            named = claims.aud if isinstance(claims.aud, list) else [claims.aud]
            if self._audience not in named:
                return WRONG_AUDIENCE
        return None


def refuses_secret(secret: bytes) -> bool:
    """Whether PyJWT takes it for no secret at all: a public key in PEM or SSH format."""
    try:
        jwt.PyJWS().encode(b"{}", secret, algorithm=_ALGORITHMS[0])
    except jwt.PyJWTError:
        return True
    return False


def _verified(token: str, secrets: Sequence[bytes]) -> _Verified | None:
    """What it says, when its signature is good by one of the secrets and it can be read."""
    if len(token) > MAX_TOKEN_CHARS or _COMPACT.fullmatch(token) is None:
        return None
    for secret in secrets:
        try:
            payload: bytes = _JWS.decode(token, secret, algorithms=list(_ALGORITHMS))
        except (jwt.PyJWTError, ValueError):
            continue
        return _read(payload, secret) if _has_plain_header(token) else None
    return None


def _read(payload: bytes, secret: bytes) -> _Verified | None:
    try:
        members = _members(payload, _Claims)
        claims = msgspec.convert(members, _Claims)
    except _UNREADABLE:
        return None
    if not all(-_INT64 <= at < _INT64 for at in (claims.exp, claims.nbf or 0)):
        return None
    return _Verified(secret, claims, _user(members.get("sub")))


def _has_plain_header(token: str) -> bool:
    """Whether the header of a verified token has nothing twice, and the types it should have."""
    head = token.partition(".")[0]
    try:
        members = _members(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)), _Header)
        msgspec.convert(members, _Header)
    except _UNREADABLE:
        return False
    return True


def _members(payload: bytes, counting: type[msgspec.Struct]) -> dict[str, object]:
    """The members of a JSON object; `counting` says which may not stand twice."""
    names = frozenset(counting.__struct_fields__)

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        seen = [name for name, _ in pairs if name in names]
        if len(seen) != len(set(seen)):
            raise ValueError("twice: two readers could take different ones")
        return dict(pairs)

    text = payload.decode("utf-8", "replace")
    read = json.loads(text, object_pairs_hook=once, parse_int=_whole, parse_constant=_no_number)
    if not isinstance(read, dict):
        raise ValueError("no object")  # noqa: TRY004 - of the text, not of our arguments
    return read


def _whole(digits: str) -> int | float:
    """A whole number as the reference reads it: `-0` and what 64 bits do not hold are floats."""
    if digits == "-0" or len(digits) > _LEAST_ABOVE_DIGITS:
        return float(digits)
    return int(digits)


def _no_number(name: str) -> float:
    raise ValueError(name)


def _user(subject: object) -> str:
    """`sub` as a name; anything else than a text names nobody."""
    return user_name(subject) if isinstance(subject, str) else ""
