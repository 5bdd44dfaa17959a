"""Where to listen: the three kinds of `--listen` URL, read and judged.

`ws://HOST:PORT` (or `wss://`), `unix://PATH` and `stdio://`. This module knows what
the text means and whether strangers could reach it; binding is the listener's business.
"""

from dataclasses import dataclass
from typing import Final

from trace_proxy.errors import ConfigurationError
from trace_proxy.protocol.authority import Authority, address_of, parse_authority

MAX_UNIX_PATH_BYTES: Final = 107
"""`sun_path` has 108 bytes on Linux, the last one is its end, unix(7)."""


@dataclass(frozen=True, slots=True)
class ListenTcp:
    """`ws://HOST:PORT`.

    Attributes:
        host: An address without brackets, or a name, in lower case.
        port: 0 lets the kernel choose.
        tls: It was written `wss://`, which needs a certificate; with one, `ws://` speaks TLS too.
    """

    host: str
    port: int
    tls: bool = False

    @property
    def url(self) -> str:
        """The URL again, an IPv6 address in brackets."""
        return f"ws{'s' if self.tls else ''}://{Authority(self.host, self.port)}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it. Of names, `localhost` alone is trusted."""
        address = address_of(self.host)
        return self.host == "localhost" if address is None else address.is_loopback


@dataclass(frozen=True, slots=True)
class ListenUnix:
    """`unix://PATH`: a socket file that only its owner may open."""

    path: str

    @property
    def url(self) -> str:
        """The URL again."""
        return f"unix://{self.path}"


@dataclass(frozen=True, slots=True)
class ListenStdio:
    """`stdio://`: one client, on stdin and stdout."""

    @property
    def url(self) -> str:
        """The URL again."""
        return "stdio://"


Listen = ListenTcp | ListenUnix | ListenStdio


def parse_listen(url: str) -> Listen:
    """Read one `--listen` value.

    Raises:
        ConfigurationError: It is none of these forms; the message says which to use.
    """
    scheme, _, rest = url.partition("://")
    if scheme in ("ws", "wss"):
        return _tcp(url, rest.removesuffix("/"), tls=scheme == "wss")
    if scheme == "unix":
        return _unix(url, rest)
    if url == "stdio://":
        return ListenStdio()
    raise _refused(url, "use ws://HOST:PORT, unix://PATH or stdio://")


def _tcp(url: str, text: str, *, tls: bool) -> ListenTcp:
    authority = parse_authority(text)
    if authority is None or authority.port is None:
        raise _refused(url, "use ws://HOST:PORT or ws://[::1]:PORT (port 0: any free one)")
    return ListenTcp(authority.host, authority.port, tls)


def _unix(url: str, path: str) -> ListenUnix:
    if not path or "\0" in path:
        raise _refused(url, "put the path of the socket after unix://")
    if len(path.encode("utf-8", "surrogateescape")) > MAX_UNIX_PATH_BYTES:
        raise _refused(url, f"the path may have {MAX_UNIX_PATH_BYTES} bytes; choose a shorter one")
    return ListenUnix(path)


def _refused(url: str, advice: str) -> ConfigurationError:
    return ConfigurationError(f"--listen {url[:200]!r}: {advice}")
