"""`docker compose` as a user calls it, in a project and on ports of its own."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE
from typing import Any

import aiohttp

ROOT = Path(__file__).parents[2]

BUILD_S = 900
"""The first build installs both programs' packages."""

COMMAND_S = 120


def compose_command() -> list[str] | None:
    """`docker compose` (Docker's plugin), else `docker-compose` (Debian's package)."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            done = subprocess.run(
                [*command, "version"], capture_output=True, timeout=COMMAND_S, check=False
            )
            if done.returncode == 0:
                return command
    return None


def docker_fault() -> str:
    """Say why Docker does not answer; empty when it does, and compose too."""
    asked = ["docker", "version", "--format", "{{.Server.Version}}"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if answer.returncode:
        return answer.stderr.strip() or "docker version failed"
    return "" if compose_command() else "there is no docker compose"


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with ExitStack() as open_sockets:
        sockets = [open_sockets.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


@dataclass(slots=True)
class Stack:
    """One `docker compose` project.

    Attributes:
        environment: On top of ours, as a user's `.env` would.
    """

    environment: dict[str, str]
    name: str = field(default_factory=lambda: f"trace-proxy-test-{uuid.uuid4().hex[:8]}")

    def compose(self, *words: str, timeout_s: float = COMMAND_S, stdin: str = "") -> str:
        """Run `docker compose` with these words; returns what it printed.

        Raises:
            AssertionError: it failed; with what it said.
        """
        command = compose_command()
        assert command is not None
        done = subprocess.run(
            [*command, "-p", self.name, *words],
            cwd=ROOT,
            env={**os.environ, **self.environment},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"{words}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def container(self, service: str) -> dict[str, Any]:
        """What Docker knows of a service's container."""
        found = self.compose("ps", "-q", service).strip()
        shown = subprocess.run(
            ["docker", "inspect", found], capture_output=True, timeout=COMMAND_S, check=True
        )
        parsed: dict[str, Any] = json.loads(shown.stdout)[0]
        return parsed

    @contextmanager
    def beside(self, service: str, *words: str) -> Iterator[str]:
        """Run `python WORDS` of these tests in the image and the network of a service.

        Gives the first line that it prints; ends when its stdin does.
        """
        there = self.container(service)
        options = ("--rm", "-i", "--network", f"container:{there['Id']}", "--entrypoint", "python")
        volume = ("-v", f"{ROOT / 'tests'}:/srv/tests:ro", "-w", "/srv")
        command = ["docker", "run", *options, *volume, there["Image"], *words]
        with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                yield process.stdout.readline().strip()
            finally:
                process.stdin.close()

    @property
    def page_url(self) -> str:
        """Where the page is."""
        return f"http://localhost:{self.environment['TRACE_PROXY_PORT']}"

    def host_url(self, name: str) -> str:
        """Where a host of the fleet is."""
        variable = f"{name.upper().replace('-', '_')}_PORT"
        return f"http://localhost:{self.environment[variable]}"

    def kill(self, service: str) -> None:
        """End a service as a power cut does; Docker does not start it again by itself."""
        found = self.compose("ps", "-q", service).strip()
        subprocess.run(
            ["docker", "kill", found], capture_output=True, timeout=COMMAND_S, check=True
        )

    @property
    def jaeger_url(self) -> str:
        """Where Jaeger is."""
        return f"http://localhost:{self.environment['JAEGER_PORT']}"

    @property
    def otlp_url(self) -> str:
        """Where it takes spans."""
        return f"http://localhost:{self.environment['OTLP_PORT']}"

    async def healthy(self, service: str = "trace-proxy", timeout_s: float = 90) -> None:
        """Wait until Docker's own health check has found it healthy."""
        async with asyncio.timeout(timeout_s):
            while True:
                state = (await asyncio.to_thread(self.container, service))["State"]
                if state.get("Health", {}).get("Status") == "healthy":
                    return
                await asyncio.sleep(0.5)

    async def get(self, path: str) -> tuple[int, str, dict[str, str]]:
        """A page through the published port: status, body, headers."""
        async with aiohttp.ClientSession() as session, session.get(self.page_url + path) as answer:
            return answer.status, await answer.text(), dict(answer.headers)
