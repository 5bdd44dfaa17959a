"""`OTEL_EXPORTER_OTLP_*` as the specification has them."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from trace_proxy.runtime.telemetry.otlp.settings import (
    USER_AGENT,
    Compression,
    OtlpSettings,
    otlp_settings,
)

PLAIN = "http://127.0.0.1:4318/v1/traces"
PROTOBUF = "application/x-protobuf"
OURS = {"content-type": PROTOBUF, "user-agent": USER_AGENT}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("environ", "settings"),
    [
        ({}, OtlpSettings(OURS)),
        (
            {
                "OTEL_EXPORTER_OTLP_HEADERS": "X-Key=a%20b, x-other = c=d ,user-agent=me",
                "OTEL_EXPORTER_OTLP_TIMEOUT": "2500",
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
                "OTEL_EXPORTER_OTLP_HEADERS": "x-key=all,x-all=1",
                "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "x-key=own,content-type=mine",
                "OTEL_EXPORTER_OTLP_TIMEOUT": "20000",
                "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "100",
                "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
                "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "deflate",
            },
            OtlpSettings(
                {**OURS, "x-key": "own", "content-encoding": "deflate"},
                0.1,
                Compression.DEFLATE,
            ),
        ),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "10000"}, OtlpSettings(OURS)),
    ],
)
def test_the_variable_for_traces_goes_before_the_one_for_all(
    environ: dict[str, str], settings: OtlpSettings
) -> None:
    with capture_logs() as logs:
        assert otlp_settings(environ, PLAIN, PROTOBUF) == settings

    assert logs == []


@pytest.mark.parametrize("timeout", ["soon", "-1", "inf", "nan", "0"])
def test_a_setting_that_means_nothing_is_warned_about_and_ignored(timeout: str) -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_TIMEOUT": timeout,
        "OTEL_EXPORTER_OTLP_COMPRESSION": "zip",
    }
    with capture_logs() as logs:
        assert otlp_settings(environ, PLAIN, PROTOBUF) == OtlpSettings(OURS)

    assert {line["value"] for line in logs} == {timeout, "zip"}


@pytest.mark.parametrize(("text", "seconds"), [("10", 10), ("99.5", 99.5), ("0.2", 0.2)])
def test_a_time_out_that_was_meant_in_seconds_is_one_and_is_warned_about(
    text: str, seconds: float
) -> None:
    with capture_logs() as logs:
        settings = otlp_settings({"OTEL_EXPORTER_OTLP_TIMEOUT": text}, PLAIN, PROTOBUF)

    assert settings.timeout_s == seconds
    assert [line["used_s"] for line in logs] == [seconds]


@pytest.mark.parametrize(
    "header",
    [
        "transfer-encoding=chunked",
        "Host=elsewhere",
        "x-key=two%0d%0ax-lines:1",
        "x-key=%D0%BA%D0%BB%D1%8E%D1%87",
    ],
)
def test_a_header_that_would_break_the_request_is_left_out_and_not_quoted(header: str) -> None:
    environ = {"OTEL_EXPORTER_OTLP_HEADERS": f"{header},x-good=1"}
    with capture_logs() as logs:
        settings = otlp_settings(environ, PLAIN, PROTOBUF)

    assert settings.headers == {**OURS, "x-good": "1"}
    name = header.partition("=")[0].lower()
    assert logs == [{"event": "telemetry.otlp.header", "name": name, "log_level": "warning"}]


@pytest.mark.parametrize(
    ("content", "login"),
    [
        ("machine 127.0.0.1 login me password secret\n", "Basic bWU6c2VjcmV0"),
        ("default login me password secret\n", "Basic bWU6c2VjcmV0"),
        ("machine elsewhere login me password secret\n", None),
        ("machine\n", None),
    ],
)
def test_a_password_in_netrc_is_sent_unless_another_login_is_given(
    tmp_path: Path, content: str, login: str | None
) -> None:
    (tmp_path / ".netrc").write_text(content)
    (tmp_path / ".netrc").chmod(0o600)
    assert otlp_settings({}, PLAIN, PROTOBUF).headers.get("authorization") == login

    given = {"OTEL_EXPORTER_OTLP_HEADERS": "authorization=mine"}
    assert otlp_settings(given, PLAIN, PROTOBUF).headers["authorization"] == "mine"
    in_url = PLAIN.replace("//", "//me@")
    assert "authorization" not in otlp_settings({}, in_url, PROTOBUF).headers

    (tmp_path / ".netrc").rename(tmp_path / "other")
    assert "authorization" not in otlp_settings({}, PLAIN, PROTOBUF).headers
    elsewhere = {"NETRC": str(tmp_path / "other")}
    assert otlp_settings(elsewhere, PLAIN, PROTOBUF).headers.get("authorization") == login


def test_a_certificate_that_cannot_be_read_is_warned_about(tmp_path: Path) -> None:
    nothing = str(tmp_path / "nothing.pem")
    environ = {"OTEL_EXPORTER_OTLP_CERTIFICATE": nothing}
    with capture_logs() as logs:
        assert otlp_settings(environ, PLAIN, PROTOBUF).tls is None, "nobody asked for TLS"
        secure = otlp_settings(environ, "https://h/", PROTOBUF).tls

    assert secure is not None
    assert secure.check_hostname
    assert [(line["event"], line["authority"]) for line in logs] == [
        ("telemetry.otlp.certificate", nothing)
    ]
