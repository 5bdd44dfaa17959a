import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from trace_proxy.errors import ConfigurationError
from trace_proxy.settings.config import (
    Authentication,
    Config,
    Delivery,
    Limits,
    ListenStdio,
    ListenTcp,
    ListenUnix,
    LogFormat,
    Logging,
    LogLevel,
    Pool,
    Security,
    Sessions,
    Tls,
    Tracing,
    TrustContext,
    WsAuth,
)
from trace_proxy.settings.grammar import build_parser, installed_version, read_config
from trace_proxy.settings.options import OPTIONS, Option

ROOT = Path(__file__).parents[2]

PROMISED = """
--listen --cores --sessions --delivery --drain-timeout --trust-context --trace-file
--core-service-name --trace-reads --record-content --max-message-bytes --max-connections
--max-connections-per-ip --max-in-flight --max-in-flight-per-connection --allow-origin
--allow-host --ws-auth --ws-token-file --ws-token-sha256 --ws-shared-secret-file --ws-issuer
--ws-audience --ws-max-clock-skew-seconds --tls-cert --tls-key --tls-client-ca
--ws-enforce-expiry --auth-overlap-seconds --insecure-behind-proxy --jaeger-url --log-format --log-level --version --help
""".split()


def proxy(
    *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A real `python -m trace_proxy`, which must end by itself."""
    return run([sys.executable, "-m", "trace_proxy", *arguments], environment or {})


def run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TRACE_PROXY_", "LOG_"))}
    return subprocess.run(
        command,
        env=clean | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_without_options_the_defaults_stand() -> None:
    assert read_config([], {}) == Config()


def test_every_group_can_be_given_by_flags() -> None:
    argv = [
        *("--listen", "ws://[::1]:0", "--listen=unix:///run/p.sock", "--listen", "stdio://"),
        *("--cores", "3", "--delivery", "broadcast", "--restart-backoff-max", "1.5"),
        *("--drain-timeout", "2.5", "--trust-context", "link", "--trace-file", "t.jsonl"),
        *(
            "--core-service-name",
            "codex",
            "--record-content",
            "--trace-reads",
            "off",
            "--jaeger-url",
            "http://h:1/",
        ),
        *("--allow-origin", "https://a.example", "--allow-host", "a.example"),
        *("--insecure-behind-proxy", "--log-format", "json", "--log-level", "WARN"),
        *(
            "--max-in-flight",
            "7",
            "--client-stall",
            "0.5",
            "--",
            "codex",
            "app-server",
            "--",
            "-x",
        ),
    ]

    assert read_config(argv, {}) == Config(
        listen=(ListenTcp("::1", 0), ListenUnix("/run/p.sock"), ListenStdio()),
        pool=Pool(
            command=("codex", "app-server", "--", "-x"),
            cores=3,
            delivery=Delivery.BROADCAST,
            restart_backoff_max_s=1.5,
        ),
        limits=Limits(max_in_flight=7, client_stall_s=0.5),
        security=Security(
            allow_origins=("https://a.example",),
            allow_hosts=("a.example",),
            insecure_behind_proxy=True,
        ),
        tracing=Tracing(
            trust_context=TrustContext.LINK,
            trace_file="t.jsonl",
            core_service_name="codex",
            trace_reads=False,
            record_content=True,
            jaeger_url="http://h:1",
        ),
        logging=Logging(format=LogFormat.JSON, level=LogLevel.WARNING),
        drain_timeout_s=2.5,
    )


def test_the_environment_is_read_when_the_flag_is_not_given() -> None:
    environment = {
        "TRACE_PROXY_LISTEN": "ws://127.0.0.1:1, stdio://,",
        "TRACE_PROXY_SESSIONS": "per-connection",
        "TRACE_PROXY_RECORD_CONTENT": "yes",
        "TRACE_PROXY_INSECURE_BEHIND_PROXY": "0",
        "TRACE_PROXY_MAX_IN_FLIGHT": "9",
        "TRACE_PROXY_DRAIN_TIMEOUT": "5",
        "TRACE_PROXY_JAEGER_URL": "",
        "TRACE_PROXY_LOG_LEVEL": "error",
        "LOG_LEVEL": "debug",
        "LOG_FORMAT": "console",
    }
    argv = ["--drain-timeout", "6", "--no-record-content"]

    assert read_config(argv, environment) == Config(
        listen=(ListenTcp("127.0.0.1", 1), ListenStdio()),
        pool=Pool(sessions=Sessions.PER_CONNECTION),
        limits=Limits(max_in_flight=9),
        logging=Logging(format=LogFormat.CONSOLE, level=LogLevel.ERROR),
        drain_timeout_s=6.0,
    )


STORE = {"CORE_SERVER_STORE": "postgresql://u@db/threads"}
EVERYWHERE = ["--listen", "ws://0.0.0.0:4500", "--insecure-behind-proxy"]


@pytest.mark.parametrize(
    ("argv", "environment", "url"),
    [
        ([], STORE, "ws://127.0.0.1:4500"),
        (["--listen", "unix:///s", "--listen", "ws://[::1]:45"], STORE, "ws://[::1]:45"),
        (EVERYWHERE, STORE, f"ws://{socket.gethostname().lower()}:4500"),
        (["--", "core-server", "--store", "postgresql:///t"], {}, "ws://127.0.0.1:4500"),
        (["--", "core-server", "--store=postgresql:///t"], {}, "ws://127.0.0.1:4500"),
        (["--advertise-url", "ws://me:1"], STORE, "ws://me:1"),
        ([], {}, None),
        ([], {"CORE_SERVER_STORE": "sqlite:///t.db"}, None),
        (["--", "core-server", "--store", "memory"], STORE, None),
        (["--", "codex", "app-server"], STORE, None),
        (["--listen", "ws://127.0.0.1:0"], STORE, None),
        (["--sessions", "per-connection"], STORE, None),
        (["--delivery", "broadcast"], STORE, None),
    ],
)
def test_where_a_store_is_shared_the_first_port_is_where_other_hosts_come(
    argv: list[str], environment: dict[str, str], url: str | None
) -> None:
    config = read_config(argv, environment)

    assert config.fleet.advertise_url == url
    assert config.allow_hosts == (() if url is None else (url.removeprefix("ws://"),))


def test_a_host_of_a_fleet_may_have_a_name() -> None:
    assert read_config(["--host-id", "pod-0"], STORE).fleet.host_id == "pod-0"
    assert read_config([], {**STORE, "TRACE_PROXY_HOST_ID": "pod-1"}).fleet.host_id == "pod-1"
    with pytest.raises(ConfigurationError, match="--host-id goes with --advertise-url"):
        read_config(["--host-id", "pod-0"], {})


def test_a_flag_replaces_the_list_of_the_environment() -> None:
    config = read_config(
        ["--listen", "stdio://"], {"TRACE_PROXY_LISTEN": "ws://127.0.0.1:1,ws://127.0.0.1:2"}
    )
    assert config.listen == (ListenStdio(),)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--cores"], "--cores: expected one argument (see trace-proxy --help)"),
        (["--cores", "x"], "--cores 'x': give a whole number in plain digits"),
        (["--cores", "1_0"], "--cores '1_0': give a whole number in plain digits"),
        (["--cores", "9" * 5000], f"--cores '{'9' * 80}': give a whole number in plain digits"),
        (["--drain-timeout", "-5"], "--drain-timeout '-5': give seconds as a number, 30 or 0.5"),
        (["--drain-timeout", "inf"], "--drain-timeout 'inf': give seconds as a number, 30 or 0.5"),
        (["--trace-file", ""], "--trace-file is empty: give a value or leave it out"),
        (["--sessions", "many"], "--sessions 'many': give one of shared, per-connection"),
        (
            ["--corse", "2"],
            "unknown option '--corse', did you mean --cores? (see trace-proxy --help)",
        ),
        (["--qqq=secret"], "unknown option '--qqq' (see trace-proxy --help)"),
        (
            ["--core", "2"],
            "unknown option '--core', did you mean --cores? (see trace-proxy --help)",
        ),
        (
            ["codex"],
            "unexpected 'codex': put the core's command after -- (see trace-proxy --help)",
        ),
        (["--"], "no command after --: name the core's program, or leave out --"),
    ],
)
def test_a_wrong_flag_is_one_clear_line(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        read_config(argv, {})
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"TRACE_PROXY_CORES": "x"}, "TRACE_PROXY_CORES 'x': give a whole number in plain digits"),
        ({"TRACE_PROXY_CORES": "0"}, "TRACE_PROXY_CORES is 0: give a whole number from 1 to 256"),
        (
            {"TRACE_PROXY_RECORD_CONTENT": "maybe"},
            "TRACE_PROXY_RECORD_CONTENT 'maybe': give true or false",
        ),
        ({"LOG_FORMAT": "xml"}, "LOG_FORMAT 'xml': give one of auto, json, console"),
        (
            {"TRACE_PROXY_CORES": "2", "TRACE_PROXY_SESSIONS": "per-connection"},
            (
                "TRACE_PROXY_CORES goes with TRACE_PROXY_SESSIONS shared: per-connection starts one "
                "core per client"
            ),
        ),
    ],
)
def test_a_wrong_variable_is_told_by_its_own_name(
    environment: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        read_config([], environment)
    assert str(refused.value) == message


def test_what_clients_must_show_is_read_from_flags_and_environment() -> None:
    argv = [
        *("--ws-auth", "signed-bearer-token", "--ws-shared-secret-file", "s", "--ws-issuer", "i"),
        *("--ws-audience", "a", "--ws-max-clock-skew-seconds", "0", "--ws-enforce-expiry"),
        *("--auth-overlap-seconds", "1.5", "--tls-cert", "c", "--tls-key", "k"),
    ]
    assert read_config(argv, {"TRACE_PROXY_TLS_CLIENT_CA": "ca"}) == Config(
        authentication=Authentication(
            mode=WsAuth.SIGNED_BEARER_TOKEN,
            shared_secret_file="s",
            issuer="i",
            audience="a",
            clock_skew_s=0,
            enforce_expiry=True,
            overlap_s=1.5,
        ),
        tls=Tls(cert="c", key="k", client_ca="ca"),
    )


def test_a_digest_that_is_none_is_not_repeated() -> None:
    for argv, environment in (
        (["--ws-auth=capability-token", "--ws-token-sha256", "canary"], {}),
        (["--ws-auth=capability-token"], {"TRACE_PROXY_WS_TOKEN_SHA256": "canary"}),
    ):
        with pytest.raises(ConfigurationError) as refused:
            read_config(argv, environment)
        assert "64 hexadecimal digits" in str(refused.value)
        assert "canary" not in str(refused.value)


def test_everything_promised_is_an_option() -> None:
    assert set(PROMISED) <= set(build_parser()._option_string_actions)  # noqa: SLF001 - no public way


def test_every_option_is_explained_and_has_its_variable() -> None:
    shown = build_parser().format_help()

    for action in build_parser()._actions:  # noqa: SLF001 - no public way
        assert action.help, action.option_strings
    for option in OPTIONS:
        assert re.search(rf"^  {option.flag}[ ,\n]", shown, re.MULTILINE), option.flag
        assert option.variable == "TRACE_PROXY_" + option.flag[2:].upper().replace("-", "_")
    assert len({option.variable for option in OPTIONS}) == len(OPTIONS)


@pytest.mark.parametrize(
    "option", [option for option in OPTIONS if option.default], ids=lambda option: option.name
)
def test_the_default_that_the_help_shows_is_the_default(option: Option) -> None:
    assert read_config([option.flag, option.default], {}) == Config()


def test_no_variable_is_one_that_kubernetes_sets_for_a_service_of_our_name() -> None:
    linked = re.compile(r"TRACE_PROXY_(SERVICE_|PORT)")

    assert not [option.variable for option in OPTIONS if linked.match(option.variable)]
    assert read_config([], {"TRACE_PROXY_PORT": "tcp://10.0.0.1:4500"}) == Config()


def test_help_teaches_by_three_examples() -> None:
    done = proxy("--help")

    examples = re.findall(r"^  (?:[A-Z_]+=\S+ )?trace-proxy.*$", done.stdout, re.MULTILINE)
    assert (done.returncode, done.stderr, len(examples)) == (0, "", 3)
    for example in examples:
        argv = example.partition("trace-proxy")[2].split()
        assert read_config(argv, {}).pool.command


def test_version_is_one_line() -> None:
    done = proxy("--version")

    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"trace-proxy \S.*\n", done.stdout)


def test_a_source_tree_says_that_it_has_no_version() -> None:
    assert installed_version("no-such-distribution") == "(not installed, version unknown)"


@pytest.mark.parametrize(
    ("arguments", "environment", "line"),
    [
        (
            ["--unheard-of"],
            {},
            "trace-proxy: unknown option '--unheard-of' (see trace-proxy --help)\n",
        ),
        (
            ["--listen", "ws://0.0.0.0:0"],
            {},
            (
                "trace-proxy: --listen ws://0.0.0.0:0 lets other machines in without authentication: "
                "use 127.0.0.1, or --ws-auth and --tls-cert, "
                "or --insecure-behind-proxy when something in front checks who comes\n"
            ),
        ),
        (
            [],
            {"TRACE_PROXY_LISTEN": "ws://[::]:0"},
            (
                "trace-proxy: TRACE_PROXY_LISTEN ws://[::]:0 lets other machines in without "
                "authentication: use 127.0.0.1, or --ws-auth and --tls-cert, "
                "or --insecure-behind-proxy when something in front checks who comes\n"
            ),
        ),
        (["a\nb\x1b[2J"], {}, None),
    ],
)
def test_a_wrong_configuration_exits_2_with_one_line(
    arguments: list[str], environment: dict[str, str], line: str | None
) -> None:
    done = proxy(*arguments, environment=environment)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("\n")
    assert done.stderr[:-1].isprintable()
    if line is not None:
        assert done.stderr == line


def test_a_closed_stderr_changes_no_exit_code() -> None:
    script = 'exec "$0" -m trace_proxy --unheard-of 2>&-'
    assert run(["sh", "-c", script, sys.executable], {}).returncode == 2


FAKE_RUNTIME = """
import json, tempfile, os, signal, sys, types
before = sorted({"argparse", "asyncio", "aiohttp", "structlog", "opentelemetry", "dataclasses"}
                & set(sys.modules))
import trace_proxy.cli.main
after = sorted({"argparse", "asyncio", "aiohttp", "structlog", "opentelemetry", "dataclasses"}
               & set(sys.modules))
from trace_proxy.errors import StartError
app = types.ModuleType("trace_proxy.runtime.app")
def run(config):
    for number in trace_proxy.cli.main.STOP_SIGNALS:
        os.kill(os.getpid(), number)
    pending = sorted(signal.Signals(number).name for number in signal.sigpending())
    print(json.dumps({"new": [m for m in after if m not in before], "pending": pending,
                      "cores": config.pool.cores, "free": tempfile.TemporaryFile().fileno() > 2}))
    if config.pool.cores == 9:
        raise StartError("the port is taken:\\nchoose another")
    return 7
app.run = run
import trace_proxy.runtime
trace_proxy.runtime.app = sys.modules["trace_proxy.runtime.app"] = app
raise SystemExit(trace_proxy.cli.main.main())
"""


def test_signals_wait_until_the_runtime_takes_them_and_its_code_is_the_exit_code() -> None:
    done = run([sys.executable, "-c", FAKE_RUNTIME, "--cores", "2"], {})

    assert (done.returncode, done.stderr) == (7, "")
    assert json.loads(done.stdout) == {
        "new": [],
        "pending": ["SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM"],
        "cores": 2,
        "free": True,
    }


def test_closed_standard_descriptors_are_never_given_to_another_file() -> None:
    script = 'exec "$0" -c "$1" 2>&- <&-'
    done = run(["sh", "-c", script, sys.executable, FAKE_RUNTIME], {})

    assert done.returncode == 7
    assert json.loads(done.stdout)["free"] is True


def test_a_failed_start_exits_1_with_one_line() -> None:
    done = run([sys.executable, "-c", FAKE_RUNTIME, "--cores", "9"], {})

    assert done.returncode == 1
    assert done.stderr == "trace-proxy: the port is taken:\\nchoose another\n"


def test_the_module_blocks_signals_before_anything_heavy_is_imported() -> None:
    """`-X importtime` lists imports in the order in which they end."""
    done = run([sys.executable, "-X", "importtime", "-m", "trace_proxy", "--version"], {})

    names = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines()]
    until_blocked = names[names.index("trace_proxy") : names.index("trace_proxy.cli.main")]
    assert set(until_blocked) <= {"trace_proxy", "trace_proxy.cli", "contextlib", "signal", "enum"}
    assert "trace_proxy.settings.grammar" in names
