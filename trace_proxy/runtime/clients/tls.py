"""TLS on the TCP listeners: a context out of PEM files, and a new one when they change.

A listener is given one context for good. For each handshake it is told to go on with the
newest, so a certificate is exchanged whole or not at all, and connections that are open
keep theirs. Sessions are not resumed: a client's certificate is looked at every time.
"""

import contextlib
import os
import ssl
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from trace_proxy.access.tokens import Overlap, user_name
from trace_proxy.errors import ConfigurationError

SHORT_NAMES: Final = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "emailAddress": "emailAddress",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "serialNumber": "serialNumber",
    "stateOrProvinceName": "ST",
    "streetAddress": "STREET",
    "userId": "UID",
}
"""RFC 4514, section 3; other attributes keep their long name."""

_ESCAPED: Final = frozenset('\\,+"<>;')


class Certificates:
    """The newest certificate, key and client authorities.

    Args:
        overlap_s: How long client authorities are trusted after they were replaced.
        clock: Monotonic seconds.
    """

    def __init__(self, overlap_s: float, clock: Callable[[], float]) -> None:
        self._overlap_s = overlap_s
        self._clock = clock
        self._pair = (b"", b"")
        self._authorities: Overlap[bytes] | None = None
        self._newest: ssl.SSLContext | None = None
        self._listening: ssl.SSLContext | None = None

    def take(self, contents: Sequence[bytes]) -> None:
        """Use a certificate, its key and, as a third, client authorities.

        Raises:
            ConfigurationError: They cannot be used, or not together.
        """
        cert, key, *authorities = contents
        now_s = self._clock()
        trusted = self._trusted(now_s)
        changed = authorities[:1] != trusted[:1]
        self._newest = _context(cert, key, [*authorities, *trusted] if changed else trusted)
        self._pair = (cert, key)
        if not changed:
            return
        if self._authorities is None:
            self._authorities = Overlap(authorities[0], self._overlap_s)
        else:
            self._authorities.replace(authorities[0], now_s)

    def forget(self) -> None:
        """Trust authorities from before no longer than the overlap; call it now and then."""
        if self._authorities is None:
            return
        end_s, now_s = self._authorities.next_end_s, self._clock()
        if end_s is not None and end_s <= now_s:
            self._newest = _context(*self._pair, self._trusted(now_s))

    def _trusted(self, now_s: float) -> list[bytes]:
        return [] if self._authorities is None else self._authorities.good(now_s)

    @property
    def trusted(self) -> int:
        """How many client authorities a handshake now trusts."""
        return 0 if self._newest is None else len(self._newest.get_ca_certs())

    def __repr__(self) -> str:
        return f"<Certificates trusted={self.trusted}>"

    @property
    def context(self) -> ssl.SSLContext:
        """For a listener, once: it hands each handshake on to the newest context."""
        assert self._newest is not None, "take() comes first"
        if self._listening is None:
            self._listening = self._newest
            self._listening.sni_callback = self._hand_on
        return self._listening

    def _hand_on(
        self, handshake: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext
    ) -> None:
        assert self._newest is not None
        handshake.context = self._newest


def _context(cert: bytes, key: bytes, authorities: Sequence[bytes]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    _load_pair(context, cert, key)
    if authorities:
        # Optional, because probes have none: who comes without hears 401 for all else.
        context.verify_mode = ssl.CERT_OPTIONAL
    for each in authorities:
        try:
            context.load_verify_locations(cadata=each.decode("ascii", "replace"))
        except (ssl.SSLError, ValueError):
            raise ConfigurationError(
                "--tls-client-ca holds no certificate: give authorities in PEM format"
            ) from None
    return context


def _load_pair(context: ssl.SSLContext, cert: bytes, key: bytes) -> None:
    if b"-----BEGIN CERTIFICATE-----" not in cert:
        raise ConfigurationError("--tls-cert holds no certificate: give one in PEM format")
    if b"PRIVATE KEY-----" not in key:
        raise ConfigurationError("--tls-key holds no private key: give one in PEM format")
    with _as_path(cert) as cert_path, _as_path(key) as key_path:
        try:
            context.load_cert_chain(cert_path, key_path, _no_passphrase)
        except _PassphraseError:
            raise ConfigurationError(
                "--tls-key has a passphrase: give a key without one, readable by nobody else"
            ) from None
        except ssl.SSLError as error:
            raise ConfigurationError(
                "--tls-key does not fit --tls-cert: give the key that the certificate was made for"
                if "KEY_VALUES_MISMATCH" in str(error) or "KEY_TYPE_MISMATCH" in str(error)
                else "--tls-cert or --tls-key cannot be used: give PEM files that openssl reads"
            ) from None


class _PassphraseError(Exception):
    """OpenSSL would ask for a passphrase on the terminal."""


def _no_passphrase() -> str:
    raise _PassphraseError


@contextlib.contextmanager
def _as_path(content: bytes) -> Iterator[str]:
    """A path for OpenSSL, which reads files only: the one on disk may have changed again."""
    fd = os.memfd_create("tls")
    try:
        os.write(fd, content)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def subject_of(certificate: object) -> str | None:
    """The subject of a client's certificate as one text (RFC 4514), None without one.

    Args:
        certificate: What `getpeercert` tells: empty when the client has shown none.
    """
    if not isinstance(certificate, dict) or not certificate:
        return None
    names: Sequence[Sequence[tuple[str, str]]] = certificate.get("subject", ())
    relative = [
        "+".join(f"{SHORT_NAMES.get(name, name)}={_escaped(value)}" for name, value in each)
        for each in reversed(names)
    ]
    return user_name(",".join(relative))


def _escaped(value: str) -> str:
    last = len(value) - 1
    return "".join(
        f"\\{char}"
        if char in _ESCAPED or (char == " " and at in (0, last)) or (char == "#" and at == 0)
        else char
        for at, char in enumerate(value)
    )
