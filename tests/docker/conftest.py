"""The stack that compose.yaml describes, built and started once for all tests here."""

import contextlib
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


@contextlib.contextmanager
def _project(**environment: str) -> Iterator[Stack]:
    """A project on ports of its own, nothing of which is left."""
    page, jaeger, otlp = map(str, free_ports(3))
    ports = {"TRACE_PROXY_PORT": page, "JAEGER_PORT": jaeger, "OTLP_PORT": otlp}
    stack = Stack(ports | environment)
    try:
        yield stack
    finally:
        stack.compose("--profile", "codex", "down", "-v", "--rmi", "local")


@pytest.fixture(scope="module")
def stack(docker: None, workspace: Path) -> Iterator[Stack]:
    """`docker compose up --build`, and `down -v` at the end."""
    del docker
    url = "http://model.invalid/v1"
    with _project(WORKSPACE=str(workspace), OPENAI_BASE_URL=url) as stack:
        stack.compose("up", "--build", "-d", timeout_s=BUILD_S)
        yield stack


@pytest.fixture
def plain(docker: None) -> Iterator[Stack]:
    """What somebody has who has set nothing but ports, and started nothing yet."""
    del docker
    with _project() as stack:
        yield stack


MODEL_PORT = 8399
"""Inside a container's own network: nobody else is there."""


@pytest.fixture
def with_model(docker: None) -> Iterator[Stack]:
    """What somebody has who wants a model to answer, at an endpoint of these tests."""
    del docker
    with _project(
        CORE_SERVER_ENGINE="openai",
        CORE_SERVER_MODEL="a-model",
        OPENAI_API_KEY="k-that-is-passed-on",
        OPENAI_BASE_URL=f"http://127.0.0.1:{MODEL_PORT}/v1",
    ) as stack:
        yield stack
