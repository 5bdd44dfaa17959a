"""`host:port` as it stands in a URL or a `Host` header: read strictly, in one place.

Two readers that differ on one odd text are a way around the door, so options and
headers go through here alike. It does not resolve names.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

Address = IPv4Address | IPv6Address

_AUTHORITY: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?")
"""RFC 3986, 3.2.2, without user names, escapes and IPv6 zones: nobody sends these honestly."""


_WS_URL: Final = re.compile(r"wss?://([^/]+)(?:/[A-Za-z0-9._~/-]*)?")
"""Without query, escapes or user names: hosts name each other so, and nobody else."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A host with or without a port.

    Attributes:
        host: A name or an address in lower case, without brackets.
        port: None where the text has none.
    """

    host: str
    port: int | None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


def parse_authority(text: str) -> Authority | None:
    """Read `name`, `name:port`, `address:port` or `[address]:port`; None when it is none of these."""
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        return None
    address, name, digits = match.groups()
    port = None if digits is None else int(digits)
    if (port or 0) > 65_535 or (address is not None and address_of(address) is None):
        return None
    return Authority((address or name).lower(), port)


def parse_ws_url(text: str) -> Authority | None:
    """The host and port of `ws://HOST:PORT/PATH` or `wss://…`; None when it is no such URL."""
    match = _WS_URL.fullmatch(text)
    return None if match is None else parse_authority(match[1])


def address_of(host: str) -> Address | None:
    """The address that `host` writes, an IPv4-mapped one as IPv4; None for a name.

    Only the plain forms: `127.1` and `0x7f.1` are names to us, as no browser sends them.
    """
    try:
        address = ip_address(host)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
