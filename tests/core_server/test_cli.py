import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from core_server import cli
from core_server.errors import ConfigurationError

ROOT = Path(__file__).parent.parent.parent


def test_the_defaults_are_those_of_the_contract(tmp_path: Path) -> None:
    options = cli.parse([], {"XDG_STATE_HOME": str(tmp_path)})
    assert vars(options) == {
        "command": None,
        "config": [],
        "help": None,
        "version": None,
        "stdio": False,
        "listen": "stdio://",
        "engine": "offline",
        "model": None,
        "wire": "responses",
        "store": f"sqlite:///{tmp_path}/core-server/threads.db",
        "workspace": str(Path.cwd()),
        "approval_policy": "on-request",
        "sandbox": "workspace-write",
        "approval_timeout": "300",
        "advertise_url": "",
        "host_id": "",
        "lease_seconds": "10",
        "max_message_bytes": "16777216",
        "log_format": "auto",
        "log_level": "info",
    }


def test_a_flag_wins_over_the_environment() -> None:
    environ = {
        "CORE_SERVER_STORE": "memory",
        "CORE_SERVER_APPROVAL_POLICY": "never",
        "LOG_LEVEL": "DEBUG",
    }
    options = cli.parse(["app-server", "--approval-policy", "untrusted", "-c", "model=x"], environ)
    found = (options.store, options.approval_policy, options.log_level, options.command)
    assert found == ("memory", "untrusted", "debug", "app-server")


def test_what_clients_of_the_codex_binary_configure_is_taken() -> None:
    argv = ["--config", 'model="m"', "-c", "approval_policy=never", "app-server"]
    options = cli.parse([*argv, "-c", 'sandbox_mode = "danger-full-access"', "-c", "a.b=1"], {})
    assert (options.model, options.approval_policy, options.sandbox) == ("m", "never", "none")


def test_an_empty_variable_is_an_unset_one_and_a_flag_says_stdio_as_codex_does() -> None:
    environ = {"CORE_SERVER_ENGINE": "", "LOG_LEVEL": "WARN", "XDG_STATE_HOME": "relative"}
    options = cli.parse(["--stdio"], environ | {"HOME": "/h"})
    found = (options.listen, options.engine, options.log_level, options.store)
    store = "sqlite:////h/.local/state/core-server/threads.db"
    assert found == ("stdio://", "offline", "warning", store)


@pytest.mark.parametrize(
    ("arguments", "environ", "message"),
    [
        (["--listen", "ws://x"], {}, "--listen 'ws://x': this server speaks stdio:// only"),
        (["--stdio", "--listen", "stdio://"], {}, "--stdio cannot be used with --listen"),
        (["--workspace", "/nonexistent"], {}, "no such directory"),
        (["--workspace", "/" + "x" * 5000], {}, "no such directory"),
        (["--max-message-bytes", "many"], {}, "a whole number of bytes"),
        (["--max-message-bytes", "10"], {}, "at least 1024"),
        (["--max-message-bytes", "²²²²²"], {}, "a whole number of bytes"),
        (["--approval-timeout", "soon"], {}, "a number of seconds"),
        (["--engine", "magic"], {}, "--engine 'magic': use one of offline, openai"),
        ([], {"CORE_SERVER_SANDBOX": "maybe"}, "CORE_SERVER_SANDBOX 'maybe': use one of"),
        ([], {"LOG_LEVEL": "loud"}, "LOG_LEVEL 'loud': use one of"),
        (["serve"], {}, "invalid choice: 'serve'"),
        (["--eng=offline"], {}, "unknown option '--eng'"),
        (["--api-key=secret"], {}, "unknown option '--api-key'"),
        (["--engine"], {}, "expected one argument"),
        (["--model", "\udcff"], {}, "--model: not UTF-8"),
        (["-c", "model"], {}, "write KEY=VALUE"),
        (["-c", 'sandbox_mode="soft"'], {}, "-c sandbox_mode 'soft': use one of"),
        (["--log-level", "info", "schema"], {}, "schema stands alone"),
    ],
)
def test_what_is_wrong_is_said_in_a_line_that_names_where_it_came_from(
    arguments: list[str], environ: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        cli.parse(arguments, {"HOME": "/", **environ})
    assert message in str(refused.value)
    assert "secret" not in str(refused.value)
    assert refused.value.exit_code == 2


def test_mistyped_variables_are_found_by_their_prefix() -> None:
    environ = {"CORE_SERVER_STROE": "memory", "CORE_SERVER_STORE": "memory", "OTHER": "x"}
    assert cli.unknown_variables(environ) == ["CORE_SERVER_STROE"]


def _run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "core_server", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **env},
        check=False,
        timeout=30,
    )


def test_help_teaches() -> None:
    shown = _run("--help")
    assert shown.returncode == 0
    assert "examples:" in shown.stdout
    assert "CORE_SERVER_<NAME>" in shown.stdout
    assert "schema --out DIR" in shown.stdout
    assert "None" not in shown.stdout


def test_it_tells_its_version() -> None:
    assert _run("--version").stdout == "core-server 0.1.0\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--store", "postgres://x"), 2, "unknown store"),
        (("--engine", "openai"), 2, "needs OPENAI_API_KEY"),
        (("--store", "sqlite:////proc/none/threads.db"), 1, "/proc/none"),
    ],
)
def test_what_keeps_it_from_starting_is_one_line(
    arguments: tuple[str, ...], code: int, message: str
) -> None:
    failed = _run(*arguments, OPENAI_API_KEY="", OPENAI_BASE_URL="")
    assert (failed.returncode, failed.stdout) == (code, "")
    assert failed.stderr.startswith("core-server: ")
    assert failed.stderr.count("\n") == 1
    assert message in failed.stderr


def test_the_end_of_input_at_once_is_no_error() -> None:
    ended = _run("--store", "memory")
    assert (ended.returncode, ended.stdout) == (0, "")
    # It may end before it has found out how commands are confined here.
    assert {json.loads(line)["event"] for line in ended.stderr.splitlines()} <= {"core.sandbox"}


def test_the_schema_is_written_into_a_directory(tmp_path: Path) -> None:
    assert _run("schema", "--out", str(tmp_path / "new")).returncode == 0
    written = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert written == [
        "ClientRequest.json",
        "ClientResults.json",
        "Error.json",
        "ServerNotification.json",
        "ServerRequest.json",
        "ServerRequestAnswers.json",
    ]
    for name in written:
        assert json.loads((tmp_path / "new" / name).read_text())["$schema"]
    failed = _run("schema", "--out", "/proc/none")
    assert failed.returncode == 1
    assert "cannot write the schema" in failed.stderr


def test_files_work_as_stdin_and_stdout(tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_text(
        '{"id":1,"method":"initialize","params":{"clientInfo":{"name":"f","version":"1"}}}\n'
        '{"id":2,"method":"thread/list","params":{}}'
    )
    with source.open() as stdin, target.open("w") as stdout:
        ended = subprocess.run(
            [sys.executable, "-m", "core_server", "--store", "memory"],
            stdin=stdin,
            stdout=stdout,
            cwd=ROOT,
            check=False,
            timeout=30,
        )
    assert ended.returncode == 0
    answers = [json.loads(line) for line in target.read_text().splitlines()]
    assert [answer["id"] for answer in answers if "result" in answer] == [1, 2]
