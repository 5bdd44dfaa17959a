"""The stack that compose.yaml describes, built and started once for all tests here."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.stack import BUILD_S, Stack, docker_fault, free_ports

REQUIRE = "TRACE_PROXY_REQUIRE_DOCKER"

OWNER = 12345
"""Neither root nor the image's own user: somebody's account on the host."""


@pytest.fixture(scope="session")
def docker() -> None:
    """A Docker engine with compose, or the tests skip; in CI they may not."""
    fault = docker_fault()
    if fault and os.environ.get(REQUIRE) == "1":
        pytest.fail(f"{REQUIRE}=1, and Docker does not answer: {fault}", pytrace=False)
    if fault:
        pytest.skip(f"Docker does not answer: {fault}")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of the host that belongs to one of its users."""
    path = tmp_path_factory.mktemp("workspace")
    if os.getuid() == 0:
        os.chown(path, OWNER, OWNER)
    return path


@pytest.fixture(scope="module")
def stack(docker: None, workspace: Path) -> Iterator[Stack]:
    """`docker compose up --build`, and `down -v` at the end."""
    del docker
    page, jaeger, otlp = map(str, free_ports(3))
    stack = Stack(
        {
            "TRACE_PROXY_PORT": page,
            "JAEGER_PORT": jaeger,
            "OTLP_PORT": otlp,
            "WORKSPACE": str(workspace),
            "OPENAI_BASE_URL": "http://model.invalid/v1",
        }
    )
    try:
        stack.compose("up", "--build", "-d", timeout_s=BUILD_S)
        yield stack
    finally:
        stack.compose("--profile", "codex", "down", "-v", "--rmi", "local")
