"""Where the Jaeger of these tests comes from: a running one, else Docker, else skipped."""

import os
import subprocess
from collections.abc import Iterator

import pytest
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import HttpWaitStrategy

from tests.jaeger.jaeger import Jaeger

IMAGE = "jaegertracing/jaeger:2.21.0"
_QUERY_PORT, _OTLP_PORT = 16686, 4318
_START_TIMEOUT_S = 60

_QUERY, _OTLP = "TRACE_PROXY_TEST_JAEGER_QUERY_URL", "TRACE_PROXY_TEST_JAEGER_OTLP_URL"
_REQUIRE = "TRACE_PROXY_REQUIRE_JAEGER"


@pytest.fixture(scope="session")
def jaeger() -> Iterator[Jaeger]:
    """A real Jaeger with memory storage; other runs may have left traces in it."""
    query_url, otlp_url = os.environ.get(_QUERY, ""), os.environ.get(_OTLP, "")
    if query_url and otlp_url:
        yield Jaeger(query_url.rstrip("/"), otlp_url.rstrip("/"))
        return
    fault = _docker_fault()
    if fault:
        reason = (
            f"no Jaeger: {_QUERY} and {_OTLP} are not set, and Docker does not answer: {fault}"
        )
        if os.environ.get(_REQUIRE) == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    with _container() as container:
        host = container.get_container_host_ip()
        yield Jaeger(
            f"http://{host}:{container.get_exposed_port(_QUERY_PORT)}",
            f"http://{host}:{container.get_exposed_port(_OTLP_PORT)}",
        )


def _container() -> DockerContainer:
    ready = HttpWaitStrategy(_QUERY_PORT, "/api/v3/services").for_status_code(200)
    return (
        DockerContainer(IMAGE)
        .with_exposed_ports(_QUERY_PORT, _OTLP_PORT)
        .waiting_for(ready.with_startup_timeout(_START_TIMEOUT_S))
    )


def _docker_fault() -> str:
    """Say why Docker does not answer; empty when it does."""
    asked = ["docker", "version", "--format", "{{.Server.Version}}"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return answer.stderr.strip() if answer.returncode else ""
