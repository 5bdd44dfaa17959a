from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trace_proxy.errors import ConfigurationError
from trace_proxy.settings.config import (
    Authentication,
    Config,
    Framing,
    Limits,
    ListenStdio,
    ListenTcp,
    ListenUnix,
    LogLevel,
    Pool,
    Security,
    Sessions,
    Spoken,
    Tls,
    Tracing,
    WsAuth,
    parse_listen,
)
from trace_proxy.settings.limits import MAX_COUNT, MAX_SECONDS, option_of


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("ws://127.0.0.1:4500", ListenTcp("127.0.0.1", 4500)),
        ("ws://127.0.0.1:0/", ListenTcp("127.0.0.1", 0)),
        ("ws://[::1]:4500", ListenTcp("::1", 4500)),
        ("ws://LOCALHOST:65535", ListenTcp("localhost", 65535)),
        ("ws://my-host_1.example:1", ListenTcp("my-host_1.example", 1)),
        ("unix:///run/proxy.sock", ListenUnix("/run/proxy.sock")),
        ("unix://proxy.sock", ListenUnix("proxy.sock")),
        ("stdio://", ListenStdio()),
        ("wss://127.0.0.1:0", ListenTcp("127.0.0.1", 0, tls=True)),
    ],
)
def test_a_listen_url_is_read(url: str, expected: object) -> None:
    assert parse_listen(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        *("", "ws", "ws://", "ws://127.0.0.1", "ws://:4500", "ws://127.0.0.1:", "ws://::1:4500"),
        *("ws://127.0.0.1:65536", "ws://127.0.0.1:-1", "ws://127.0.0.1:4500/path", "ws://a b:1"),
        *("ws://user@host:1", "ws://[zz::1]:1", "ws://[127.0.0.1:1", "ws://h:1?q", "ws://h:٣"),
        *("http://127.0.0.1:1", "wss://127.0.0.1", "tcp://127.0.0.1:1", "WS://127.0.0.1:1"),
        *("unix://", "unix:/x", "unix://a\0b", "unix://" + "x" * 108, "stdio:", "stdio://x"),
    ],
)
def test_any_other_listen_url_is_refused_with_the_url_and_advice(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^--listen '.*': .{10,}") as refused:
        parse_listen(url)
    assert str(refused.value).isprintable()


@given(st.text())
def test_any_text_is_a_listen_url_or_a_configuration_error(text: str) -> None:
    try:
        listen = parse_listen(text)
    except ConfigurationError as error:
        assert str(error).isprintable()  # noqa: PT017 - both ends are right here
    else:
        assert parse_listen(listen.url) == listen


@pytest.mark.parametrize(
    "url", ["ws://127.0.0.1:0", "ws://[::1]:1", "unix://a.sock", "stdio://", "ws://h.example:9"]
)
def test_a_listen_url_can_be_written_again(url: str) -> None:
    assert parse_listen(url).url == url


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *(("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True)),
        *(("::ffff:127.0.0.1", True), ("0.0.0.0", False), ("::", False), ("10.0.0.1", False)),  # noqa: S104 - that is the point
        *(("host.example", False), ("localhost.evil.com", False), ("127.1", False)),
    ],
)
def test_only_this_machine_reaches_loopback(host: str, *, loopback: bool) -> None:
    assert ListenTcp(host, 1).loopback is loopback


@pytest.mark.parametrize("url", ["ws://0.0.0.0:4500", "ws://[::]:4500", "ws://host.example:1"])
def test_listening_to_the_world_needs_somebody_who_authenticates(url: str) -> None:
    listen = (parse_listen("ws://127.0.0.1:1"), parse_listen(url))

    with pytest.raises(ConfigurationError, match=r"without authentication.*127\.0\.0\.1"):
        Config(listen=listen)

    assert Config(listen=listen, security=Security(insecure_behind_proxy=True)).listen == listen


TOKEN = Authentication(mode=WsAuth.CAPABILITY_TOKEN, token_file="t")
ENCRYPTED = Tls(cert="c", key="k")
MUTUAL = Tls(cert="c", key="k", client_ca="a")


@pytest.mark.parametrize(
    ("authentication", "tls", "refused"),
    [
        (Authentication(), Tls(), "without authentication"),
        (Authentication(), ENCRYPTED, "without authentication"),
        (TOKEN, Tls(), "in plain text"),
        (TOKEN, ENCRYPTED, ""),
        (TOKEN, MUTUAL, ""),
        (Authentication(), MUTUAL, ""),
    ],
)
@pytest.mark.parametrize("url", ["ws://0.0.0.0:4500", "ws://[::]:0", "ws://host.example:1"])
def test_other_machines_need_authentication_and_tls(
    url: str, authentication: Authentication, tls: Tls, refused: str
) -> None:
    def config(*, behind_proxy: bool) -> Config:
        security = Security(insecure_behind_proxy=behind_proxy)
        listen = (parse_listen(url),)
        return Config(listen=listen, authentication=authentication, tls=tls, security=security)

    config(behind_proxy=True)
    if not refused:
        config(behind_proxy=False)
        return
    with pytest.raises(ConfigurationError, match=refused):
        config(behind_proxy=False)


def test_wss_needs_a_certificate_wherever_it_listens() -> None:
    listen = (parse_listen("wss://127.0.0.1:4500"),)
    with pytest.raises(ConfigurationError, match="add --tls-cert and --tls-key, or write ws://"):
        Config(listen=listen, security=Security(insecure_behind_proxy=True))
    assert Config(listen=listen, tls=ENCRYPTED).tls.on


def test_the_defaults_serve_on_loopback_with_our_own_core() -> None:
    config = Config()

    assert config.listen == (ListenTcp("127.0.0.1", 4500),)
    assert config.pool.command[1:] == ("-m", "core_server")
    assert config.drain_timeout_s == 0


def test_a_configuration_never_changes() -> None:
    config = Config()
    for group in (config, config.pool, config.limits, config.security, config.tracing):
        name = fields(group)[0].name
        with pytest.raises(FrozenInstanceError):
            setattr(group, name, None)


def test_the_same_place_twice_is_refused_but_two_free_ports_are_not() -> None:
    free = parse_listen("ws://127.0.0.1:0")
    assert Config(listen=(free, free)).listen == (free, free)

    for url in ("ws://127.0.0.1:1", "unix://a.sock", "stdio://"):
        with pytest.raises(ConfigurationError, match=f"--listen {url} is given twice"):
            Config(listen=(parse_listen(url), parse_listen(url)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Config(listen=()), "nowhere to listen: give at least one --listen URL"),
        (lambda: Config(drain_timeout_s=-1), "--drain-timeout is -1: give seconds, 0 or more"),
        (lambda: Config(drain_timeout_s=float("nan")), "--drain-timeout is nan: give seconds"),
        (lambda: Pool(command=()), "no command after --: name the core's program"),
        (lambda: Pool(command=("",)), "no command after --: name the core's program"),
        (lambda: Pool(command=("a", "b\0")), "the command after -- contains a NUL character"),
        (lambda: Pool(cores=0), "--cores is 0: give a whole number from 1 to 256"),
        (lambda: Pool(cores=257), "--cores is 257: give a whole number from 1 to 256"),
        (lambda: Pool(max_restarts=0), "--max-restarts is 0"),
        (lambda: Pool(restart_window_s=0), "--restart-window is 0: give seconds, more than 0"),
        (lambda: Pool(restart_backoff_min_s=9), "--restart-backoff-min is more than"),
        (
            lambda: Pool(cores=2, sessions=Sessions.PER_CONNECTION),
            "--cores goes with --sessions shared",
        ),
        (lambda: Tracing(core_service_name=""), "--core-service-name ''"),
        (lambda: Tracing(core_service_name="a\nb"), r"--core-service-name 'a\\nb'"),
        (lambda: Tracing(core_service_name="x" * 256), "--core-service-name 'xxx"),
        (lambda: Tracing(trace_file="a\0"), "--trace-file contains a NUL character"),
        (lambda: Tracing(jaeger_url="javascript:alert(1)"), "--jaeger-url 'javascript:alert"),
        (lambda: Tracing(jaeger_url="http://h:1/?q=1"), "--jaeger-url 'http://h:1/"),
        (lambda: Tracing(jaeger_url='http://h"onload="x'), "--jaeger-url"),
        (lambda: Tracing(jaeger_url="http://h:99999"), "--jaeger-url"),
        (lambda: Authentication(mode=WsAuth.CAPABILITY_TOKEN), "--ws-auth capability-token takes"),
        (lambda: Authentication(mode=WsAuth.SIGNED_BEARER_TOKEN), "--ws-auth signed-bearer-token"),
        (lambda: Authentication(token_file="t"), "--ws-token-file goes with --ws-auth capab"),
        (lambda: Authentication(enforce_expiry=True), "--ws-enforce-expiry goes with --ws-auth"),
        (lambda: Authentication(overlap_s=-1), "--auth-overlap-seconds is -1: give seconds"),
        (lambda: Authentication(token_sha256="f" * 63), "--ws-token-sha256 is not 64 hexadec"),
        (lambda: Tls(cert="c"), "--tls-cert and --tls-key go together"),
        (lambda: Tls(client_ca="c"), "--tls-client-ca goes with --tls-cert and --tls-key"),
        (lambda: Tls(cert="c\0", key="k"), "--tls-cert contains a NUL character"),
        (lambda: Security(allow_hosts=("http://h",)), "--allow-host 'http://h': use NAME or NAME"),
        (lambda: Security(allow_hosts=("h:99999",)), "--allow-host"),
        (lambda: Security(allow_hosts=("[zz]",)), "--allow-host"),
    ],
)
def test_what_makes_no_sense_is_refused_on_one_line(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message) as refused:
        make()
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example.com",
        "http://127.0.0.1:3000",
        "http://[::1]:3000",
        "vscode-webview://1a",
    ],
)
def test_an_origin_is_taken_as_the_browser_writes_it(origin: str) -> None:
    assert Security(allow_origins=(origin,)).allow_origins == (origin,)


@pytest.mark.parametrize(
    "origin",
    [
        *("*", "null", "", "example.com", "https://", "https://app.example.com/", "https://A.com"),
        *(
            "https://a.com:443",
            "http://a.com:80",
            "HTTPS://a.com",
            "https://*.a.com",
            "https://a b",
        ),
    ],
)
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"--allow-origin .*: write it as the browser does"
    ):
        Security(allow_origins=(origin,))


@pytest.mark.parametrize(
    "url", ["http://localhost:16686", "https://jaeger.example/ui", "http://[::1]:1"]
)
def test_a_jaeger_url_may_have_a_path(url: str) -> None:
    assert Tracing(jaeger_url=url).jaeger_url == url


def test_warn_is_a_level_too() -> None:
    assert LogLevel("warn") is LogLevel.WARNING


@pytest.mark.parametrize("name", [bound.name for bound in fields(Limits)])
def test_every_bound_is_at_least_one_or_a_moment_and_finite(name: str) -> None:
    limits = Limits()
    seconds = isinstance(getattr(limits, name), float)

    for wrong in (
        *(() if name == "ping_interval_s" else (0,)),
        -1,
        (MAX_SECONDS if seconds else MAX_COUNT) + 1,
    ):
        with pytest.raises(ConfigurationError, match=f"^{option_of(name)} is "):
            replace(limits, **cast("dict[str, Any]", {name: wrong}))
    if seconds:
        for wrong_s in (float("nan"), float("inf")):
            with pytest.raises(ConfigurationError, match=f"^{option_of(name)} is "):
                replace(limits, **cast("dict[str, Any]", {name: wrong_s}))


def test_every_bound_can_be_one_but_what_a_document_may_measure_and_a_speed() -> None:
    ones, defaults = Limits.all_ones(), Limits()

    assert {bound.name for bound in fields(Limits) if getattr(ones, bound.name) != 1} == {
        "max_message_bytes",
        "max_core_line_bytes",
        "large_message_bytes_per_second",
        "max_unfinished_bytes",
    }
    assert ones.max_message_bytes == defaults.max_message_bytes


def test_a_message_of_four_times_the_limit_is_cut() -> None:
    assert Limits(max_message_bytes=10).cut_message_bytes == 40


@pytest.mark.parametrize(
    ("pool", "offered"),
    [
        (Pool(), ()),
        (Pool(subprotocols=("a",)), ("a",)),
        (Pool(sessions=Sessions.PER_CONNECTION), ("mcp", "acp")),
        (Pool(sessions=Sessions.PER_CONNECTION, protocol=Spoken.MCP), ("mcp",)),
        (
            Pool(sessions=Sessions.PER_CONNECTION, protocol=Spoken.LSP, subprotocols=("b", "a")),
            ("b", "a"),
        ),
    ],
)
def test_what_a_program_speaks_says_which_subprotocols_may_be_selected(
    pool: Pool, offered: tuple[str, ...]
) -> None:
    assert pool.offered == offered


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"framing": Framing.CONTENT_LENGTH}, "--framing content-length goes with"),
        ({"protocol": Spoken.ACP}, "--protocol acp goes with"),
        ({"subprotocols": ("a b",)}, "--subprotocol 'a b': use the name"),
        ({"subprotocols": ("ok", "")}, "--subprotocol '': use the name"),
        ({"subprotocols": ("x" * 65,)}, "--subprotocol 'xxx"),
        ({"subprotocols": ("a\r\nb",)}, "--subprotocol 'a"),
    ],
)
def test_what_shared_cores_and_headers_cannot_have_is_refused(
    wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Pool(**wrong)
    assert str(refused.value).startswith(message)
    assert str(refused.value).isprintable()
