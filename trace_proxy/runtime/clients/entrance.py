"""Asks everybody who comes what they have to show, and reads what is good from its files.

Decisions are made in `access`; here are the files, the clocks and what aiohttp knows of a
request. Unix sockets ask for nothing: their file's mode lets in its owner only.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs, web

from trace_proxy.access.attempts import Attempts
from trace_proxy.access.policy import Denial
from trace_proxy.access.tokens import (
    NO_CERTIFICATE,
    Identity,
    Overlap,
    bearer_of,
    check_capability,
    digest_of,
)
from trace_proxy.errors import ConfigurationError
from trace_proxy.runtime.clients.client import Client
from trace_proxy.runtime.clients.handshake import HOP_HEADER, offered_protocols
from trace_proxy.runtime.clients.tls import Certificates, subject_of
from trace_proxy.runtime.clients.watched_files import LOOK_S, WatchedFiles
from trace_proxy.settings.config import Authentication, Config, Tls, WsAuth

if TYPE_CHECKING:
    from trace_proxy.access.signed_tokens import SignedTokens

EXPIRED_CODE: Final = 1008

LONGEST_TIMER_S: Final = 3600.0
"""A clock may be set; an hour later at most we look at it again."""


class Entrance:
    """What clients of all TCP listeners have to show.

    Args:
        config: All settings.

    Raises:
        ConfigurationError: A file cannot be used.
    """

    def __init__(self, config: Config) -> None:
        self._settings = config.authentication
        self._certificates_asked = config.tls.client_ca is not None
        # Behind an ingress all have its address: it has to slow down who guesses.
        self._attempts = None if config.security.insecure_behind_proxy else Attempts()
        self._files: list[WatchedFiles] = []
        self._digests: Overlap[bytes] | None = None
        self._secrets: Overlap[bytes] | None = None
        self._signed: SignedTokens | None = None
        self.certificates: Certificates | None = None
        self._peers: Overlap[bytes] | None = None
        self._read_tokens(self._settings)
        if config.fleet.peer_token_file is not None:
            flag = "--peer-token-file"
            paths = {flag: config.fleet.peer_token_file}
            self._files.append(WatchedFiles(paths, self._take_peer_token, secret=[flag]))
        self._read_certificates(config.tls)

    def __repr__(self) -> str:
        return f"<Entrance mode={self._settings.mode} files={len(self._files)}>"

    def _read_tokens(self, settings: Authentication) -> None:
        match settings.mode:
            case None:
                return
            case WsAuth.CAPABILITY_TOKEN if settings.token_sha256 is not None:
                self._digests = Overlap(bytes.fromhex(settings.token_sha256), 0)
            case WsAuth.CAPABILITY_TOKEN:
                flag = "--ws-token-file"
                paths = {flag: settings.token_file or ""}
                self._files.append(WatchedFiles(paths, self._take_token, secret=[flag]))
            case WsAuth.SIGNED_BEARER_TOKEN:
                # A library, and perhaps the cryptography behind it: not always needed.
                from trace_proxy.access.signed_tokens import SignedTokens  # noqa: PLC0415

                self._signed = SignedTokens(
                    issuer=settings.issuer, audience=settings.audience, skew_s=settings.skew_s
                )
                flag = "--ws-shared-secret-file"
                paths = {flag: settings.shared_secret_file or ""}
                self._files.append(WatchedFiles(paths, self._take_secret, secret=[flag]))

    def _read_certificates(self, settings: Tls) -> None:
        if settings.cert is None or settings.key is None:
            return
        self.certificates = Certificates(self._settings.overlap_s, time.monotonic)
        paths = {"--tls-cert": settings.cert, "--tls-key": settings.key}
        if settings.client_ca is not None:
            paths["--tls-client-ca"] = settings.client_ca
        self._files.append(WatchedFiles(paths, self.certificates.take, secret=["--tls-key"]))

    def _take_token(self, contents: Sequence[bytes]) -> None:
        self._digests = self._replaced(self._digests, _digest("--ws-token-file", contents[0]))

    def _take_peer_token(self, contents: Sequence[bytes]) -> None:
        self._peers = self._replaced(self._peers, _digest("--peer-token-file", contents[0]))

    def _take_secret(self, contents: Sequence[bytes]) -> None:
        from trace_proxy.access.signed_tokens import MIN_SECRET_BYTES, refuses_secret  # noqa: PLC0415 - as above

        secret = contents[0].strip()
        if len(secret) < MIN_SECRET_BYTES:
            raise ConfigurationError(
                f"--ws-shared-secret-file has less than {MIN_SECRET_BYTES} bytes: "
                "make one with `openssl rand -base64 32`"
            )
        if refuses_secret(secret):
            raise ConfigurationError(
                "--ws-shared-secret-file holds a key of another kind: "
                "make a secret with `openssl rand -base64 32`"
            )
        self._secrets = self._replaced(self._secrets, secret)

    def _replaced(self, old: Overlap[bytes] | None, value: bytes) -> Overlap[bytes]:
        if old is None:
            return Overlap(value, self._settings.overlap_s)
        if value != old.newest:
            old.replace(value, time.monotonic())
        return old

    def warn(self) -> None:
        """Say which secret others may read."""
        for files in self._files:
            files.warn()

    async def watch(self) -> None:
        """Read files again when they change, forever."""
        while self._files:
            await asyncio.sleep(LOOK_S)
            for files in self._files:
                await files.look()
            if self.certificates is not None:
                self.certificates.forget()

    def admit(self, request: web.BaseRequest, ip: str | None) -> Identity | Denial:
        """Whether somebody may come in, and who it is; refusals of an address are counted.

        Args:
            request: What they send.
            ip: Where from; None: a unix socket.
        """
        if ip is None:
            return Identity()
        now_s = time.monotonic()
        attempts = self._attempts
        waits = None if attempts is None else attempts.check(ip, now_s)
        if waits is not None:
            return waits
        shown = self._identify(request, now_s)
        if isinstance(shown, Denial) and attempts is not None:
            attempts.refused(ip, now_s)
        return shown

    def _identify(self, request: web.BaseRequest, now_s: float) -> Identity | Denial:
        subject = None
        if self._certificates_asked:
            assert request.transport is not None
            subject = subject_of(request.transport.get_extra_info("peercert"))
            if subject is None:
                return NO_CERTIFICATE
        identity = self._check_token(request, now_s)
        if isinstance(identity, Identity) and subject and not identity.user:
            return Identity(subject, identity.expires_s)
        return identity

    def _check_token(self, request: web.BaseRequest, now_s: float) -> Identity | Denial:
        if self._peers is not None and HOP_HEADER in request.headers:
            shown = bearer_of(request.headers.getall(hdrs.AUTHORIZATION, ()), ())
            if isinstance(shown, Denial):
                return shown
            return check_capability(shown, self._peers.good(now_s))
        if self._settings.mode is None:
            return Identity()
        token = bearer_of(
            request.headers.getall(hdrs.AUTHORIZATION, ()), offered_protocols(request)
        )
        if isinstance(token, Denial):
            return token
        if self._signed is not None and self._secrets is not None:
            return self._signed.check(token, self._secrets.good(now_s), time.time())
        assert self._digests is not None, "a mode without anything to compare with"
        return check_capability(token, self._digests.good(now_s))

    def ends_with_token(
        self, client: Client, identity: Identity
    ) -> contextlib.AbstractContextManager[None]:
        """While this is entered, the client is closed when its token expires, if asked for."""
        if identity.expires_s is None or not self._settings.enforce_expiry:
            return contextlib.nullcontext()
        # The skew lets in who is a little late; he is not thrown out in the same moment.
        late = time.time() >= identity.expires_s
        end_s = identity.expires_s + (self._settings.skew_s + 1 if late else 0)
        return _Alarm(end_s, lambda: client.close(EXPIRED_CODE, "token expired"))


def _digest(flag: str, content: bytes) -> bytes:
    token = content.strip()
    if not token.isascii() or not token.decode().replace("\t", " ").isprintable():
        raise ConfigurationError(
            f"{flag} holds what no header can carry: use one line of plain characters"
        )
    return digest_of(token.decode())


class _Alarm(contextlib.AbstractContextManager[None]):
    """Acts at a time by the wall clock (Unix seconds), unless it is left before."""

    def __init__(self, end_s: float, act: Callable[[], None]) -> None:
        self._end_s = end_s
        self._act = act
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        self._look()

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        rest_s = self._end_s - time.time()
        if rest_s <= 0:
            self._act()
        else:
            self._timer = self._loop.call_later(min(rest_s, LONGEST_TIMER_S), self._look)
