import os
from pathlib import Path

import pytest

from core_server.tools import shell
from core_server.tools.read_only import known_read_only
from tests.core_server.tools.processes import command, finish, text


async def test_a_line_runs_in_a_login_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # a developer's own profile may take seconds
    argv = shell.argv_of("echo hi; echo err >&2")
    assert argv == ("/bin/bash", "-lc", "echo hi; echo err >&2")
    outcome, outputs = await finish(command(*argv))
    assert (outcome.exit_code, text(outputs)) == (0, "hi\n")


def test_an_argv_stays_as_it_is() -> None:
    assert shell.argv_of(["git", "status"]) == ("git", "status")


def test_without_bash_a_line_runs_in_sh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "_BASH", "/nonexistent")
    assert shell.argv_of("echo hi") == ("/bin/sh", "-c", "echo hi")


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (("/bin/bash", "-lc", "echo hi; echo err >&2"), "/bin/bash -lc 'echo hi; echo err >&2'"),
        (("/bin/bash", "-lc", "true"), "/bin/bash -lc true"),
        (("echo", "it's"), """echo 'it'"'"'s'"""),
    ],
)
def test_a_command_is_shown_quoted(argv: tuple[str, ...], shown: str) -> None:
    assert shell.display(argv) == shown


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (("/bin/bash", "-lc", "echo hi; echo err >&2"), "echo hi; echo err >&2"),
        (("bash", "-c", "true"), "true"),
        (("bash", "-x", "true"), "bash -x true"),
        (("git", "log", "a b"), "git log 'a b'"),
    ],
)
def test_actions_leave_out_the_shell(argv: tuple[str, ...], shown: str) -> None:
    assert shell.command_actions(argv) == [{"type": "unknown", "command": shown}]


@pytest.mark.parametrize(
    "line",
    [
        "ls -la",
        "cat README.md",
        "grep -rn 'a b' src",
        "rg --files",
        "rg -n needle src",
        "git status",
        "git diff --stat",
        "git log --oneline -5",
        "git show HEAD",
        "sed -n 10,20p file",
        "pwd",
    ],
)
def test_what_only_reads_is_known(line: str) -> None:
    assert known_read_only(("/bin/bash", "-lc", line))
    assert known_read_only(tuple(line.replace("'a b'", "ab").split()))


@pytest.mark.parametrize(
    "line",
    [
        "",
        "rm x",
        "ls; rm x",
        "ls && rm x",
        "ls\nrm x",
        "ls > x",
        "cat < x",
        "cat $(rm x)",
        "cat `rm x`",
        "cat $HOME",
        "ls *",
        "ls 'open",
        "X=1 ls",
        "./ls",
        "find . -delete",
        "rg --pre ./x needle",
        "rg -nz needle",
        "git push",
        "git",
        "git -c core.pager=x log",
        "git -C x status",
        "git log --outp x",
        "git diff --ext-diff",
        "git diff --no-index --output x",
        "sed -n -i file",
        "sed -i 1p file",
        "sed -n 1p -fscript",
        "sed -n 1w file",
        "sed p file",
        "tee x",
    ],
)
def test_everything_else_is_not_known(line: str) -> None:
    assert not known_read_only(("/bin/bash", "-lc", line))


@pytest.mark.parametrize("argv", [(), ("/opt/ls",), ("bash", "x.sh"), ("env", "ls")])
def test_other_commands_are_not_known(argv: tuple[str, ...]) -> None:
    assert not known_read_only(argv)


def test_the_shell_that_is_named_is_there() -> None:
    assert os.access(shell.argv_of("true")[0], os.X_OK)
    assert Path(shell.argv_of("true")[0]).is_absolute()
