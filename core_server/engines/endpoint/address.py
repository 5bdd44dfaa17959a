"""Where the endpoint is and how to get there, from the environment. Pure but for the CA file.

The variables are the usual ones: `OPENAI_BASE_URL`, `HTTP_PROXY`, `HTTPS_PROXY`,
`ALL_PROXY`, `NO_PROXY` (also in lower case, which wins), `SSL_CERT_FILE`, `SSL_CERT_DIR`.
Only what this one address needs is looked at: a broken variable that is not needed does no
harm, and one that is needed is named.
"""

import ipaddress
import ssl
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import msgspec

PUBLIC_BASE_URL = "https://api.openai.com/v1"

_PROXY_SCHEMES = frozenset({"http", "https", "socks5", "socks5h"})


class Address(msgspec.Struct, frozen=True):
    """An endpoint.

    Attributes:
        base_url: Without query and fragment, up to and with `/v1`.
        query: As it was, without `?`; goes along with every request.
        proxy: URL of the proxy, or None.
        ca_file: CA certificates to trust instead of the usual, or None.
        ca_dir: The same, a directory.
    """

    base_url: str = PUBLIC_BASE_URL
    query: str = ""
    proxy: str | None = None
    ca_file: str | None = None
    ca_dir: str | None = None

    @property
    def shown(self) -> str:
        """The base URL for texts: without user and password."""
        return shown(self.base_url)

    def secrets(self) -> tuple[str, ...]:
        """Return what no text may show: passwords in URLs, values of the query."""
        passwords = (urlsplit(url).password for url in (self.base_url, self.proxy or ""))
        values = (pair.partition("=")[2] for pair in self.query.split("&"))
        return tuple(secret for secret in (*passwords, *values) if secret)

    def tls(self) -> ssl.SSLContext | None:
        """Return whom to trust; None for whoever the HTTP library trusts.

        Raises:
            ValueError: with one line, when the CA file cannot be used.
        """
        if not self.is_tls:
            # Nobody is trusted: no TLS connection is made on this way.
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.ca_file is None and self.ca_dir is None:
            return None
        name = "SSL_CERT_FILE" if self.ca_file is not None else "SSL_CERT_DIR"
        try:
            return ssl.create_default_context(cafile=self.ca_file, capath=self.ca_dir)
        except OSError as error:
            path = self.ca_file or self.ca_dir
            raise ValueError(f"{name}={path} cannot be used: {error.strerror or error}") from None

    @property
    def is_tls(self) -> bool:
        """Whether certificates matter on the way there."""
        return any(urlsplit(url).scheme == "https" for url in (self.base_url, self.proxy or ""))


def shown(url: str) -> str:
    """Return a URL without what may be secret: user, password, query, fragment."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def read_address(environ: Mapping[str, str]) -> Address:
    """Read the address from the environment; connects to nothing.

    Raises:
        ValueError: with one line that names the variable.
    """
    url = environ.get("OPENAI_BASE_URL", "").strip() or PUBLIC_BASE_URL
    parts = _http_url(url)
    if parts is None:
        raise ValueError(
            "OPENAI_BASE_URL is not an http or https URL: "
            "it should look like http://127.0.0.1:8000/v1"
        )
    base_url = parts._replace(query="", fragment="").geturl()
    proxy = (
        None
        if _is_exempt(parts, _variable(environ, "no_proxy")[1])
        else _proxy(environ, parts.scheme)
    )
    address = Address(base_url, parts.query, proxy)
    if address.is_tls:
        address = msgspec.structs.replace(
            address,
            ca_file=environ.get("SSL_CERT_FILE") or None,
            ca_dir=environ.get("SSL_CERT_DIR") or None,
        )
        _check_readable(address)
    return address


def _http_url(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if good and url.isascii() and url.isprintable() and " " not in url else None


def _check_readable(address: Address) -> None:
    for name, path in (("SSL_CERT_FILE", address.ca_file), ("SSL_CERT_DIR", address.ca_dir)):
        if path is not None and not Path(path).exists():
            raise ValueError(f"{name}={path}: no such file; unset it or name one that is there")


def _variable(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    """Return a variable's name as it is set, and its value; lower case wins."""
    for one in (name, name.upper()):
        if value := environ.get(one, "").strip():
            return one, value
    return name, ""


def _proxy(environ: Mapping[str, str], scheme: str) -> str | None:
    name, url = _variable(environ, f"{scheme}_proxy")
    if not url:
        name, url = _variable(environ, "all_proxy")
    if not url:
        return None
    url = url if "://" in url else f"http://{url}"
    # socks:// and socks4:// name what no library here speaks.
    url = url.replace("socks://", "socks5://", 1) if url.startswith("socks://") else url
    try:
        parts = urlsplit(url)
        good = parts.scheme in _PROXY_SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ValueError(f"{name} is no proxy that can be used: http://HOST:PORT, or socks5://")
    if url.startswith("socks") and find_spec("aiohttp_socks") is None:
        raise ValueError(
            f"{name} is a SOCKS proxy, which needs the package aiohttp-socks: "
            "install it (the extra `socks`), or name the endpoint's host in NO_PROXY"
        )
    return url


def _is_exempt(parts: SplitResult, no_proxy: str) -> bool:
    """Whether NO_PROXY names the host: `*`, a host or its domain, with port, an address or net."""
    host = (parts.hostname or "").lower()
    port = parts.port or (443 if parts.scheme == "https" else 80)
    for one in no_proxy.lower().replace(" ", ",").split(","):
        entry = one.strip().rpartition("://")[2]
        if not entry:
            continue
        name, _, of_port = entry.rpartition(":")
        if name and of_port.isdecimal() and "]" not in of_port and name.count(":") in {0, 7}:
            if int(of_port) != port:
                continue
            entry = name
        if entry == "*" or _is_of(host, entry.strip("[]").lstrip("*").lstrip(".")):
            return True
    return False


def _is_of(host: str, entry: str) -> bool:
    if host == entry or (entry and host.endswith(f".{entry}")):
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
