"""Who may come in?  Host, Origin, and how many at once: decided before any upgrade.

Any web page can make the browser open `ws://127.0.0.1`: the browser's `Origin` gives it
away, so an `Origin` is refused unless it is our own page's or exactly listed. A page can
also point its own name at 127.0.0.1 (DNS rebinding): `Host` gives that away, so a `Host`
is refused unless it is an address or name that is ours.

This module judges header values; it does not authenticate, and reads no request itself.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from trace_proxy.protocol.authority import Authority, address_of, parse_authority

OPEN_PATHS: Final = frozenset({"/healthz", "/readyz"})
"""Probes come from anywhere under any name, and learn nothing but up or not."""

RETRY_AFTER_S: Final = 5
"""Long enough that refused clients do not come back as a herd at once."""

_PAGE_FILES: Final = (".css", ".js", ".svg")

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def is_public(path: str) -> bool:
    """Whether a path shows nothing of what goes on: probes, and the page without its data.

    The page asks its user for the token, so it must come without one.
    """
    is_page = path == "/" or (path.startswith("/console/") and path.endswith(_PAGE_FILES))
    return path in OPEN_PATHS or is_page


@dataclass(frozen=True, slots=True)
class Denial:
    """Why somebody stays outside.

    Attributes:
        status: HTTP status.
        reason: A constant word for logs and metrics.
        text: One plain sentence for the body.
        retry_after_s: Seconds for `Retry-After`; 0: no such header.
    """

    status: int
    reason: str
    text: str
    retry_after_s: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFacts:
    """What the door looks at.

    Attributes:
        path: The path, without the query.
        hosts: Every value of `Host`, in order.
        origins: Every value of `Origin`, in order.
    """

    path: str
    hosts: Sequence[str]
    origins: Sequence[str]


class Door:
    """The rules of one listener.

    Args:
        bound_ips: The addresses that the listener is bound to, as `getsockname` tells them;
            none for a unix socket: no browser reaches it, so any single `Host` will do.
        port: The real port.
        allow_hosts: `NAME` (any port, for the outer one is unknown) or `NAME:PORT`.
        allow_origins: Origins as browsers write them.
        behind_proxy: Whether TLS may end in front of us: our page is then https as well.
        tls: Whether it ends here: our page is then https only.
    """

    def __init__(
        self,
        *,
        bound_ips: Sequence[str],
        port: int,
        allow_hosts: Sequence[str] = (),
        allow_origins: Sequence[str] = (),
        behind_proxy: bool = False,
        tls: bool = False,
    ) -> None:
        self._bound = frozenset(ip_address(ip) for ip in bound_ips)
        self._wildcard = any(address.is_unspecified for address in self._bound)
        self._port = port
        self._allow_hosts = frozenset(map(parse_authority, allow_hosts))
        self._allow_origins = frozenset(allow_origins)
        self._scheme = "https" if tls else "http"
        self._own_schemes = ("http", "https") if behind_proxy else (self._scheme,)

    def __repr__(self) -> str:
        where = ", ".join(sorted(map(str, self._bound))) or "unix"
        return f"<Door {where} port={self._port} origins={len(self._allow_origins)}>"

    def check(self, facts: RequestFacts) -> Denial | None:
        """None: this request may go on; probes always may."""
        if facts.path in OPEN_PATHS:
            return None
        if len(facts.hosts) != 1 or not facts.hosts[0]:
            return Denial(400, "host_count", "Send exactly one Host header with a value.")
        host = parse_authority(facts.hosts[0])
        if host is None:
            return Denial(400, "host_malformed", "The Host header is not a host with a port.")
        if not self._is_ours(host):
            return Denial(421, "host", "This host is not served here; --allow-host adds a name.")
        return self._check_origin(facts.origins, host)

    def _is_ours(self, host: Authority) -> bool:
        if not self._bound or host in self._allow_hosts:
            return True
        if Authority(host.host, None) in self._allow_hosts:
            return True
        usual = [Authority(host.host, _DEFAULT_PORTS[scheme]) for scheme in self._own_schemes]
        if host.port is None and not self._allow_hosts.isdisjoint(usual):
            return True
        if (_DEFAULT_PORTS[self._scheme] if host.port is None else host.port) != self._port:
            return False
        address = address_of(host.host)
        if address is None:
            return host.host == "localhost"
        return self._wildcard or address in self._bound

    def _check_origin(self, origins: Sequence[str], host: Authority) -> Denial | None:
        if not origins:
            return None  # no browser: browsers never leave it out of a handshake
        if len(origins) > 1:
            return Denial(403, "origin_count", "Send at most one Origin header.")
        own = {_origin(scheme, host) for scheme in self._own_schemes if self._bound}
        if origins[0] in self._allow_origins or origins[0] in own:
            return None
        return Denial(
            403, "origin", "Web pages of this origin may not connect; --allow-origin adds one."
        )


def _origin(scheme: str, host: Authority) -> str:
    """As browsers write it: a default port is left out (RFC 6454, 6.2)."""
    port = None if host.port == _DEFAULT_PORTS[scheme] else host.port
    return f"{scheme}://{Authority(host.host, port)}"


class ConnectionCount:
    """How many are inside, in all and from each address.

    Args:
        max_connections: In all.
        max_connections_per_ip: From one address. A unix peer has none and is not counted so.
    """

    def __init__(self, *, max_connections: int, max_connections_per_ip: int) -> None:
        self._max = max_connections
        self._max_per_ip = max_connections_per_ip
        self._per_ip: Counter[str] = Counter()
        self._total = 0

    def __repr__(self) -> str:
        return f"<ConnectionCount {self._total}/{self._max} addresses={len(self._per_ip)}>"

    @property
    def total(self) -> int:
        """Connections inside."""
        return self._total

    def admit(self, ip: str | None) -> Denial | None:
        """Count one in from `ip` (None: a unix socket), or refuse it and count nothing."""
        key = key_of(ip)
        if self._total >= self._max:
            return Denial(
                503, "max_connections", "Too many connections; try again later.", RETRY_AFTER_S
            )
        if key is not None and self._per_ip[key] >= self._max_per_ip:
            return Denial(
                503,
                "max_connections_per_ip",
                "Too many connections from your address; try again later.",
                RETRY_AFTER_S,
            )
        self._total += 1
        if key is not None:
            self._per_ip[key] += 1
        return None

    def release(self, ip: str | None) -> None:
        """Count out one that was admitted from `ip`."""
        key = key_of(ip)
        assert self._total > 0, "released a connection that was not admitted"
        assert key is None or self._per_ip[key] > 0, "released for an address that has none"
        self._total -= 1
        if key is not None:
            self._per_ip[key] -= 1
            if not self._per_ip[key]:
                del self._per_ip[key]  # or a walk through addresses would fill the memory


def key_of(ip: str | None) -> str | None:
    """One key for an address however it is written: `::ffff:10.0.0.1` is `10.0.0.1`."""
    if ip is None:
        return None
    return str(address_of(ip) or ip)
