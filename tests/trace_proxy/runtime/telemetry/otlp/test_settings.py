"""`OTEL_EXPORTER_OTLP_*`, and which collectors need the stock client."""

from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from structlog.testing import capture_logs

from trace_proxy.runtime.telemetry.otlp.settings import (
    USER_AGENT,
    Compression,
    OtlpSettings,
    is_direct,
    otlp_settings,
)

PLAIN = "http://127.0.0.1:4318/v1/traces"
PROTOBUF = "application/x-protobuf"
STOCK_HEADERS = {"content-type": PROTOBUF, "user-agent": USER_AGENT}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)


@pytest.mark.parametrize(
    ("environ", "settings"),
    [
        ({}, OtlpSettings(STOCK_HEADERS)),
        (
            {
                "OTEL_EXPORTER_OTLP_HEADERS": "X-Key=a%20b, x-other = c=d ,user-agent=me",
                "OTEL_EXPORTER_OTLP_TIMEOUT": "2.5",
                "OTEL_EXPORTER_OTLP_COMPRESSION": " GZIP ",
            },
            OtlpSettings(
                {
                    "content-type": PROTOBUF,
                    "user-agent": "me",
                    "x-key": "a b",
                    "x-other": "c=d",
                    "content-encoding": "gzip",
                },
                2.5,
                Compression.GZIP,
            ),
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_HEADERS": "x-key=all",
                "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "x-key=own,content-type=mine",
                "OTEL_EXPORTER_OTLP_TIMEOUT": "2",
                "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "3",
                "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
                "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "deflate",
            },
            OtlpSettings(
                {**STOCK_HEADERS, "x-key": "own", "content-encoding": "deflate"},
                3,
                Compression.DEFLATE,
            ),
        ),
    ],
)
def test_variables_are_read_as_the_stock_exporter_reads_them(
    environ: dict[str, str], settings: OtlpSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    stock = OTLPSpanExporter(PLAIN, headers={"content-type": PROTOBUF})._client  # noqa: SLF001 - the oracle

    assert otlp_settings(environ, PROTOBUF) == settings
    assert {name.lower(): value for name, value in stock._headers.items()} == settings.headers  # noqa: SLF001
    assert stock._timeout == settings.timeout_s  # noqa: SLF001
    assert stock._compression.value == settings.compression.value  # noqa: SLF001
    stock.shutdown()


@pytest.mark.parametrize("timeout", ["soon", "-1", "inf", "nan"])
def test_a_setting_that_means_nothing_is_warned_about_and_ignored(timeout: str) -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_TIMEOUT": timeout,
        "OTEL_EXPORTER_OTLP_COMPRESSION": "zip",
    }
    with capture_logs() as logs:
        assert otlp_settings(environ, PROTOBUF) == OtlpSettings(STOCK_HEADERS)

    assert {line["value"] for line in logs} == {timeout, "zip"}


@pytest.mark.parametrize(
    ("url", "environ", "headers"),
    [
        ("https://127.0.0.1:4318/v1/traces", {}, {}),
        ("http://me:secret@127.0.0.1:4318/v1/traces", {}, {}),
        ("http://кот:4318/v1/traces", {}, {}),
        ("http://127.0.0.1:4318/a b", {}, {}),
        (PLAIN, {"OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER": "cloud"}, {}),
        (PLAIN, {"OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER": "cloud"}, {}),
        (PLAIN, {}, {"transfer-encoding": "chunked"}),
        (PLAIN, {}, {"x-key": "two\r\nx-lines: 1"}),
        (PLAIN, {}, {"x-key": "ключ"}),
    ],
)
def test_what_is_more_than_a_plain_post_needs_the_stock_client(
    url: str, environ: dict[str, str], headers: dict[str, str]
) -> None:
    assert is_direct(PLAIN, {}, STOCK_HEADERS)
    assert not is_direct(url, environ, headers)


@pytest.mark.parametrize("name", ["http_proxy", "all_proxy"])
def test_a_proxy_needs_the_stock_client_unless_the_collector_is_exempt(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "http://proxy:3128")
    assert not is_direct(PLAIN, {}, {})

    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")
    assert is_direct(PLAIN, {}, {})


@pytest.mark.parametrize(
    ("content", "direct"),
    [
        ("machine 127.0.0.1 login me password secret\n", False),
        ("default login me password secret\n", False),
        ("machine elsewhere login me password secret\n", True),
        ("machine\n", True),
    ],
)
def test_a_password_in_netrc_needs_the_stock_client(
    tmp_path: Path, content: str, *, direct: bool
) -> None:
    (tmp_path / ".netrc").write_text(content)
    (tmp_path / ".netrc").chmod(0o600)
    assert is_direct(PLAIN, {}, {}) is direct

    (tmp_path / ".netrc").rename(tmp_path / "other")
    assert is_direct(PLAIN, {}, {})
    assert is_direct(PLAIN, {"NETRC": str(tmp_path / "other")}, {}) is direct
