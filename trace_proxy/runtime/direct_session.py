"""One plain HTTP connection to the collector next door, for the stock OTLP exporter.

A `requests.Session` spends 0.4 ms of CPU on each request (proxies, netrc, cookies,
redirects), as much as encoding a hundred spans; `http.client` spends 0.07 ms.  This is a
session, handed to the exporter through its own `session` argument, that sends the one
kind of request it is made for by itself: a POST over plain HTTP to one host.

It is given out only where none of those features can matter; TLS, proxies and credentials
are left to `requests`.
"""

import io
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.utils import get_environ_proxies, get_netrc_auth

_PROVIDERS = (
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER",
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER",
)


def direct_session(url: str, environ: Mapping[str, str]) -> requests.Session | None:
    """A session for this collector, or None where the stock one is needed."""
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.username is not None:
        return None
    if any(environ.get(name) for name in _PROVIDERS):
        return None
    if get_environ_proxies(url, no_proxy=None) or get_netrc_auth(url):
        return None
    return DirectSession(url)


class DirectSession(requests.Session):
    """Posts to one URL over one kept connection; anything else goes the ordinary way.

    Used by one thread at a time, except for `close`.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        parts = urlsplit(url)
        self._url = url
        self._path = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
        assert parts.hostname is not None, "checked when the destination was chosen"
        self._connection = HTTPConnection(parts.hostname, parts.port)

    def request(
        self, method: str, url: str | bytes, *args: Any, **kwargs: Any
    ) -> requests.Response:
        """Send a request; its errors are those of `requests`.

        Raises:
            requests.exceptions.RequestException: No answer, or none in time.
        """
        if method != "POST" or url != self._url or args:
            return super().request(method, url, *args, **kwargs)
        try:
            return self._post(kwargs["data"], kwargs["headers"], kwargs["timeout"])
        except TimeoutError as error:
            self._connection.close()
            raise requests.exceptions.ReadTimeout from error
        except (OSError, HTTPException) as error:
            self._connection.close()
            raise requests.exceptions.ConnectionError from error

    def close(self) -> None:
        """Close the connection too; safe from another thread, whose request then fails."""
        super().close()
        self._connection.close()

    def _post(
        self, body: bytes, headers: Mapping[str, str], timeout_s: float
    ) -> requests.Response:
        connection = self._connection
        connection.timeout = timeout_s  # of the next connect
        if connection.sock is not None:
            connection.sock.settimeout(timeout_s)
        connection.request("POST", self._path, body, dict(headers))
        answer = connection.getresponse()
        response = requests.Response()
        response.raw = io.BytesIO(answer.read())  # read at once: the connection is free again
        response.status_code, response.reason = answer.status, answer.reason
        response.headers.update(answer.getheaders())
        return response
