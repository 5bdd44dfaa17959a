"""What README.md tells people to type in "Quick start", typed as it stands there.

`docker compose up` is typed by `tests/docker`. The others need port 4500, as a user does.
"""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compat.real_codex import codex_home, codex_path, needs_codex
from tests.docker.stack import ROOT
from tests.responses_api import ResponsesApi

PORT = 4500
INSTALL_S = 600
COMMAND_S = 120


def snippets(language: str) -> list[str]:
    """The code blocks of "Quick start" in a language, in order."""
    text = (ROOT / "README.md").read_text()
    section = text.partition("## Quick start\n")[2].partition("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)


def taken(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a user has cloned."""
    directory = tmp_path_factory.mktemp("clone") / "trace-proxy"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        timeout=COMMAND_S,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, directory / name)
    return directory


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a user who has set nothing up, with a home of his own."""
    directory = str(tmp_path_factory.mktemp("home"))
    ours = ("OTEL_", "TRACE_PROXY_", "CORE_SERVER_", "XDG_", "COVERAGE")
    kept = {name: each for name, each in os.environ.items() if not name.startswith(ours)}
    return {**kept, "HOME": directory}


@pytest.fixture(scope="module")
def running(checkout: Path, home: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """The proxy, installed and started by the line that README says."""
    if taken(PORT):
        pytest.skip(f"port {PORT}, which README names, is taken here")
    _, install_and_start, _ = snippets("sh")
    process = subprocess.Popen(
        ["sh", "-c", f"PIP_DISABLE_PIP_VERSION_CHECK=1; exec </dev/null; {install_and_start}"],
        cwd=checkout,
        env=home | {"LOG_FORMAT": "json"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stderr
        lines = (line for line in process.stderr if line.startswith("{"))
        ready = next((json.loads(line) for line in lines if "proxy.ready" in line), None)
        assert ready is not None, "it ended before it was ready"
        assert ready["listen"] == [f"ws://127.0.0.1:{PORT}"]
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=COMMAND_S)


def run(words: list[str], cwd: Path, environment: dict[str, str]) -> str:
    """Run a program to its end; returns what it printed."""
    done = subprocess.run(
        words,
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_quick_start_begins_with_one_command() -> None:
    shell = snippets("sh")
    assert shell[0] == "docker compose up\n"
    assert len(shell) == 3
    assert len(snippets("python")) == 2


def test_it_installs_and_serves_and_one_talks_to_it(
    running: subprocess.Popen[str], checkout: Path, home: dict[str, str]
) -> None:
    said = run(["sh", "-c", snippets("sh")[2]], checkout, home)
    assert said == "hello there\n\nturn completed\n"
    assert running.poll() is None


def test_the_official_client_speaks_to_the_core(
    running: subprocess.Popen[str], checkout: Path, home: dict[str, str]
) -> None:
    assert running.poll() is None
    assert run([sys.executable, "-c", snippets("python")[0]], checkout, home) == "hello there\n"


@needs_codex
async def test_the_official_client_speaks_to_its_own_server_through_the_proxy_with_traces(
    running: subprocess.Popen[str], checkout: Path, home: dict[str, str], tmp_path: Path
) -> None:
    assert running.poll() is None
    assert codex_path() is not None
    async with ResponsesApi() as api:
        environment = {**home, **codex_home(tmp_path, api.url)}
        words = [sys.executable, "-c", snippets("python")[1]]
        said = await asyncio.to_thread(run, words, checkout, environment)
    assert said == "Hello from the model\n"
    assert '"turn/start"' in (checkout / "traces.jsonl").read_text()
