"""Who has to show what: tokens and certificates, as the options name them.

The names of the `ws-` options and which of them go together are those of
`codex app-server`, whose clients must not see a difference. Files are only named here;
`runtime.clients.credentials` and `runtime.clients.tls` read them.
"""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from trace_proxy.errors import ConfigurationError
from trace_proxy.settings.limits import MAX_SECONDS, check_seconds

DEFAULT_SKEW_S: Final = 30

_SHA256_HEX: Final = re.compile(r"[0-9A-Fa-f]{64}")


class WsAuth(Enum):
    """What a client shows: a token that we know, or one that somebody signed."""

    CAPABILITY_TOKEN = "capability-token"  # noqa: S105 - the name of a mode
    SIGNED_BEARER_TOKEN = "signed-bearer-token"  # noqa: S105 - the name of a mode


@dataclass(frozen=True, slots=True, kw_only=True)
class Authentication:
    """Bearer tokens.

    Attributes:
        mode: None: nobody is asked for a token.
        token_file: Holds the capability token.
        token_sha256: Its digest instead, 64 hexadecimal digits.
        shared_secret_file: Holds the secret that signed tokens are made with.
        issuer: What `iss` must be; None: not looked at.
        audience: What `aud` must be or contain; None: not looked at.
        clock_skew_s: By so much may clocks differ; None: `DEFAULT_SKEW_S`.
        enforce_expiry: Whether a signed token that expires ends its open connection.
        overlap_s: How long what a file held before it changed stays valid.
    """

    mode: WsAuth | None = None
    token_file: str | None = None
    token_sha256: str | None = None
    shared_secret_file: str | None = None
    issuer: str | None = None
    audience: str | None = None
    clock_skew_s: int | None = None
    enforce_expiry: bool = False
    overlap_s: float = 60.0

    def __post_init__(self) -> None:
        _check_path("--ws-token-file", self.token_file)
        _check_path("--ws-shared-secret-file", self.shared_secret_file)
        if not 0 <= self.skew_s <= MAX_SECONDS:
            raise ConfigurationError(
                "--ws-max-clock-skew-seconds: give whole seconds, at most a year"
            )
        if self.token_sha256 is not None and _SHA256_HEX.fullmatch(self.token_sha256) is None:
            raise ConfigurationError(
                "--ws-token-sha256 is not 64 hexadecimal digits: give the token's SHA-256"
            )
        check_seconds("auth_overlap_seconds", self.overlap_s, zero=True)
        self._check_together()

    @property
    def skew_s(self) -> int:
        """By so much may clocks differ."""
        return DEFAULT_SKEW_S if self.clock_skew_s is None else self.clock_skew_s

    def _check_together(self) -> None:
        """Refuse an option that would silently do nothing: its user believes to be protected."""
        capability = _given(
            {"--ws-token-file": self.token_file, "--ws-token-sha256": self.token_sha256}
        )
        signed = _given(
            {
                "--ws-shared-secret-file": self.shared_secret_file,
                "--ws-issuer": self.issuer,
                "--ws-audience": self.audience,
                "--ws-max-clock-skew-seconds": self.clock_skew_s,
                "--ws-enforce-expiry": self.enforce_expiry or None,
            }
        )
        if self.mode is not WsAuth.CAPABILITY_TOKEN and capability:
            raise ConfigurationError(
                f"{capability[0]} goes with --ws-auth capability-token: add it"
            )
        if self.mode is not WsAuth.SIGNED_BEARER_TOKEN and signed:
            raise ConfigurationError(
                f"{signed[0]} goes with --ws-auth signed-bearer-token: add it"
            )
        if self.mode is WsAuth.CAPABILITY_TOKEN and len(capability) != 1:
            raise ConfigurationError(
                "--ws-auth capability-token takes one of --ws-token-file and --ws-token-sha256: "
                + ("add one" if not capability else "leave one out")
            )
        if self.mode is WsAuth.SIGNED_BEARER_TOKEN and self.shared_secret_file is None:
            raise ConfigurationError(
                "--ws-auth signed-bearer-token takes --ws-shared-secret-file: add it"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """TLS on every TCP listener.

    Attributes:
        cert: PEM file with our certificate, and behind it the chain.
        key: PEM file with its private key, without a passphrase.
        client_ca: PEM file with the authorities whose certificates clients must have.
    """

    cert: str | None = None
    key: str | None = None
    client_ca: str | None = None

    def __post_init__(self) -> None:
        for flag, path in (
            ("--tls-cert", self.cert),
            ("--tls-key", self.key),
            ("--tls-client-ca", self.client_ca),
        ):
            _check_path(flag, path)
        if (self.cert is None) is not (self.key is None):
            raise ConfigurationError("--tls-cert and --tls-key go together: give both or neither")
        if self.client_ca is not None and self.cert is None:
            raise ConfigurationError(
                "--tls-client-ca goes with --tls-cert and --tls-key: add them"
            )

    @property
    def on(self) -> bool:
        """Whether TCP listeners speak TLS."""
        return self.cert is not None


def _given(options: dict[str, object]) -> list[str]:
    return [flag for flag, value in options.items() if value is not None]


def _check_path(flag: str, path: str | None) -> None:
    if path is not None and "\0" in path:
        raise ConfigurationError(f"{flag} contains a NUL character: remove it")
