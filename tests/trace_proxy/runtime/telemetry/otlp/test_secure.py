"""Collectors behind TLS, behind a login and behind a proxy: real servers, real certificates."""

import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from select import select
from socket import create_connection

import pytest

from trace_proxy.runtime.telemetry.otlp.client import OtlpClient
from trace_proxy.runtime.telemetry.otlp.settings import otlp_settings

PROTOBUF = "application/x-protobuf"
PROXIES = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "no_proxy")

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="makes its certificates with openssl"
)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


class Served(ThreadingHTTPServer):
    """A collector, and a proxy: remembers the targets and logins that it was asked with."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.asked: list[tuple[str, str]] = []


class Answering(BaseHTTPRequestHandler):
    """Takes everything; `CONNECT` is a tunnel to where it says."""

    server: Served
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        login = self.headers.get("authorization") or self.headers.get("proxy-authorization")
        self.server.asked.append((self.path, login or ""))
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def do_CONNECT(self) -> None:
        self.server.asked.append((self.path, self.headers.get("proxy-authorization") or ""))
        host, _, port = self.path.rpartition(":")
        with create_connection((host, int(port)), 10) as there:
            self.send_response(200)
            self.end_headers()
            ends = {self.connection: there, there: self.connection}
            while True:
                for ready in select(list(ends), [], [], 10)[0]:
                    data = ready.recv(65_536)
                    if not data:
                        self.close_connection = True
                        return
                    ends[ready].sendall(data)

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def serve() -> Iterator[Callable[[ssl.SSLContext | None], Served]]:
    servers: list[tuple[Served, threading.Thread]] = []

    def start(tls: ssl.SSLContext | None) -> Served:
        server = Served()
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        servers.append((server, thread))
        return server

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join(10)
        server.server_close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """One that vouches for itself, for 127.0.0.1, and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    made, key = str(folder / "cert.pem"), str(folder / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=collector", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-out", made, "-keyout", key], check=True, capture_output=True)
    return made, key


def send(url: str, **environ: str) -> str:
    """Why a batch did not arrive; empty if it did."""
    variables = {f"OTEL_EXPORTER_OTLP_{name}": value for name, value in environ.items()}
    client = OtlpClient(
        url, otlp_settings({"OTEL_EXPORTER_OTLP_TIMEOUT": "900", **variables}, url, PROTOBUF)
    )
    why = client.send((b"spans",))
    client.close()
    return why


def test_a_collector_proves_who_it_is_and_so_do_we(
    serve: Callable[[ssl.SSLContext | None], Served], certificate: tuple[str, str]
) -> None:
    made, key = certificate
    demanding = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=made)
    demanding.verify_mode = ssl.CERT_REQUIRED
    demanding.load_cert_chain(made, key)
    trusting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trusting.load_cert_chain(made, key)
    open_to_all = f"https://127.0.0.1:{serve(trusting).server_port}/v1/traces"
    closed = f"https://127.0.0.1:{serve(demanding).server_port}/v1/traces"

    assert send(open_to_all) == "the TLS handshake failed", "nobody vouches for it"
    assert send(open_to_all, CERTIFICATE=made) == ""
    assert send(closed, CERTIFICATE=made) != "", "it wants to know who we are"
    assert send(closed, TRACES_CERTIFICATE=made, CLIENT_CERTIFICATE=made, CLIENT_KEY=key) == ""


def test_a_login_in_the_url_is_sent_and_a_strange_path_is_encoded(
    serve: Callable[[ssl.SSLContext | None], Served],
) -> None:
    server = serve(None)

    assert send(f"http://me:s%20t@127.0.0.1:{server.server_port}/a b?q=ж") == ""

    assert server.asked == [("/a%20b?q=%D0%B6", "Basic bWU6cyB0")]


def test_a_proxy_is_used_unless_the_collector_is_exempt(
    serve: Callable[[ssl.SSLContext | None], Served],
    certificate: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, key = certificate
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(made, key)
    proxy, plain, secure = serve(None), serve(None), serve(tls)
    login = f"http://me:secret@127.0.0.1:{proxy.server_port}"
    monkeypatch.setenv("http_proxy", login)
    monkeypatch.setenv("https_proxy", login)
    http, https = (f"127.0.0.1:{each.server_port}" for each in (plain, secure))

    assert send(f"http://{http}/v1/traces") == ""
    assert send(f"https://{https}/v1/traces", CERTIFICATE=made) == ""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert send(f"http://{http}/v1/traces") == ""

    basic = "Basic bWU6c2VjcmV0"
    assert proxy.asked == [(f"http://{http}/v1/traces", basic), (https, basic)]
    assert (plain.asked, secure.asked) == ([("/v1/traces", "")], [("/v1/traces", "")])
