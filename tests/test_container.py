import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import yaml

from tests.jaeger.conftest import IMAGE
from trace_proxy.access.policy import OPEN_PATHS
from trace_proxy.runtime.clients.entrance import Entrance
from trace_proxy.settings.config import Config, ListenTcp
from trace_proxy.settings.grammar import read_config
from trace_proxy.settings.options import OPTIONS, PREFIX

ROOT: Final = Path(__file__).parents[1]

OTEL_NAMES: Final = {
    *("OTEL_SDK_DISABLED", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_PROPAGATORS"),
    *("OTEL_TRACES_EXPORTER", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"),
    *("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
    *("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_EXPORTER_OTLP_PROTOCOL"),
}
"""https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/."""

PASSED_ON: Final = {
    *("CORE_SERVER_ENGINE", "CORE_SERVER_MODEL", "OPENAI_API_KEY", "OPENAI_BASE_URL")
}
"""For the core, from who starts compose."""

HOSTS: Final = ("host-1", "host-2", "host-3")

FLEET: Final = {"CORE_SERVER_STORE", "CORE_SERVER_HOST_ID"}
"""What a core is told of its store and its name."""

CLOSING_S: Final = 7
"""What the drain allows: interrupt 2 s, Close 1 s, children 2 s, spans 2 s."""


def compose() -> dict[str, Any]:
    parsed = yaml.safe_load((ROOT / "compose.yaml").read_text())
    assert isinstance(parsed, dict)
    return parsed


def interpolated(text: str) -> str:
    """As compose reads it where none of its variables is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def environment(name: str = "trace-proxy") -> dict[str, str]:
    """What a proxy gets from compose alone: null passes a variable on, and none is set."""
    found = service(name)["environment"]
    return {name: interpolated(value) for name, value in found.items() if value is not None}


def service(name: str) -> dict[str, Any]:
    found = compose()["services"][name]
    assert isinstance(found, dict)
    return found


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, comments and line ends gone."""
    text = re.sub(r"^#.*\n", "", (ROOT / "trace_proxy/Dockerfile").read_text(), flags=re.MULTILINE)
    joined = re.sub(r"\\\n\s*", " ", text)
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line]


def arguments(instruction: str) -> list[str]:
    return [rest for name, rest in instructions() if name == instruction]


def project() -> dict[str, Any]:
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert isinstance(found, dict)
    return found


def image_environment() -> dict[str, str]:
    return dict(word.split("=", 1) for rest in arguments("ENV") for word in shlex.split(rest))


def configured() -> Config:
    return read_config([], {**image_environment(), **environment()})


def published(name: str) -> dict[int, tuple[str, int]]:
    """Port in the container → address and port outside."""
    ports = [interpolated(entry).rsplit(":", 2) for entry in service(name)["ports"]]
    return {int(inside): (address, int(outside)) for address, outside, inside in ports}


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def test_what_the_build_copies_exists_and_is_not_ignored() -> None:
    allowed = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    copied: set[str] = set()
    for rest in arguments("COPY"):
        if not rest.startswith("--from="):
            copied |= set(shlex.split(rest)[:-1])

    assert copied == allowed
    assert {name for name in copied if not (ROOT / name).exists()} == set()
    assert {project()["readme"], *project()["license-files"], "pyproject.toml"} <= copied


def test_every_image_is_pinned_and_new_enough() -> None:
    stages = [rest.split()[0] for rest in arguments("FROM")]

    assert len(set(stages)) == 1
    version = re.fullmatch(r"python:3\.(\d+)-slim-\w+", stages[0])
    least = re.fullmatch(r">=3\.(\d+)", project()["requires-python"])
    assert version
    assert least
    assert int(version[1]) >= int(least[1])
    assert re.fullmatch(r"jaegertracing/jaeger:2\.\d+\.\d+", service("jaeger")["image"])
    assert service("jaeger")["image"] == IMAGE


def test_the_image_starts_the_console_script_itself_and_not_as_root() -> None:
    (entrypoint,) = arguments("ENTRYPOINT")
    (user,) = arguments("USER")

    (script,) = json.loads(entrypoint)
    assert project()["scripts"][script] == "trace_proxy.cli.main:main"
    assert user != "0"
    assert f"--uid {user} " in " ".join(arguments("RUN"))


def test_the_image_has_what_a_sandboxed_command_needs() -> None:
    assert re.search(r"apt-get install .*\bbash\b.*\bbubblewrap\b", " ".join(arguments("RUN")))


def test_the_image_sets_options_of_the_core_that_exist() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "core_server", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout

    for name in image_environment().keys() - {"PATH"}:
        prefix, _, option = name.partition("SERVER_")
        assert prefix == "CORE_"
        assert "--" + option.lower().replace("_", "-") in shown


def test_compose_builds_the_dockerfile_that_is_there() -> None:
    build = service("trace-proxy")["build"]

    assert (ROOT / build["context"] / build["dockerfile"]).samefile(
        ROOT / "trace_proxy/Dockerfile"
    )


def test_compose_sets_only_variables_that_somebody_reads() -> None:
    known = {option.variable for option in OPTIONS} | OTEL_NAMES | PASSED_ON

    assert set(service("trace-proxy")["environment"]) <= known
    assert any(name.startswith(PREFIX) for name in service("trace-proxy")["environment"])


@pytest.mark.parametrize("name", HOSTS)
def test_hosts_of_the_fleet_differ_in_how_they_are_called_alone(name: str) -> None:
    host, single = service(name), service("trace-proxy")
    known = {option.variable for option in OPTIONS} | OTEL_NAMES | PASSED_ON | FLEET
    url = host["environment"]["TRACE_PROXY_ADVERTISE_URL"]
    config = read_config([], {**image_environment(), **environment(name)})

    assert set(host["environment"]) <= known
    assert url == f"ws://{name}:{published(name).popitem()[0]}"
    assert host["environment"]["CORE_SERVER_HOST_ID"] == name
    assert name in config.security.allow_hosts
    assert {"image", "command"}.isdisjoint(host)
    assert host["build"]["dockerfile"] == single["build"]["dockerfile"]
    same = ("entrypoint", "healthcheck", "init", "restart", "stop_grace_period", "user")
    assert [host[each] for each in same] == [single[each] for each in same]


def test_hosts_of_the_fleet_have_ports_of_their_own_and_one_store_with_the_extra_for_it() -> None:
    outside = [published(name).popitem()[1] for name in (*HOSTS, "trace-proxy")]
    stores = {environment(name)["CORE_SERVER_STORE"] for name in HOSTS}
    database = {
        name: interpolated(value) for name, value in service("postgres")["environment"].items()
    }
    (url,) = map(urlsplit, stores)

    assert len(set(outside)) == len(outside)
    assert {address for address, _ in outside} == {"127.0.0.1"}
    assert "ports" not in service("postgres")
    assert (url.scheme, url.hostname) == ("postgresql", "postgres")
    assert database == {
        "POSTGRES_USER": url.username, "POSTGRES_PASSWORD": url.password, "POSTGRES_DB": url.path[1:],
    }  # fmt: skip
    for name in HOSTS:
        (extra,) = re.findall(r"^\[(\w+)\]$", service(name)["build"]["args"]["EXTRAS"])
        assert extra in project()["optional-dependencies"]
    assert any('".$EXTRAS"' in rest for rest in arguments("RUN"))


def test_the_port_is_the_same_everywhere_and_stays_on_this_machine() -> None:
    (listen,) = configured().listen
    assert isinstance(listen, ListenTcp)

    assert Config().listen == (ListenTcp("127.0.0.1", listen.port),)
    assert arguments("EXPOSE") == [str(listen.port)]
    assert published("trace-proxy") == {listen.port: ("127.0.0.1", listen.port)}
    assert {address for address, _ in published("jaeger").values()} == {"127.0.0.1"}


def test_traces_go_to_the_collector_beside_and_links_to_where_the_browser_finds_it() -> None:
    sent_to = urlsplit(environment()["OTEL_EXPORTER_OTLP_ENDPOINT"])
    shown_at = urlsplit(configured().tracing.jaeger_url or "")

    assert sent_to.hostname in service("trace-proxy")["depends_on"]
    assert sent_to.hostname in compose()["services"]
    assert sent_to.port in published("jaeger")
    assert ("127.0.0.1", shown_at.port) == published("jaeger")[16686]


def test_a_drain_ends_before_compose_kills() -> None:
    grace_s = seconds(service("trace-proxy")["stop_grace_period"])

    assert 0 < configured().drain_timeout_s <= grace_s - CLOSING_S


def test_the_thread_store_is_on_a_volume() -> None:
    mounted, workspace = map(interpolated, service("trace-proxy")["volumes"])
    (database,) = service("postgres")["volumes"]
    name, directory = mounted.split(":")

    named = {name, workspace.split(":")[0], database.split(":")[0]}
    assert named == set(compose()["volumes"])
    assert arguments("VOLUME") == [directory]
    assert image_environment()["CORE_SERVER_STORE"].startswith(f"sqlite:///{directory}/")
    assert f" {directory} " in " ".join(arguments("RUN"))


@contextmanager
def answering(status: int) -> Iterator[tuple[int, list[str]]]:
    """A server that answers every GET so; gives its port and the paths it saw."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port, seen
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(("status", "exit_code"), [(200, 0), (503, 1)])
def test_the_healthcheck_tells_ready_from_not_ready(status: int, exit_code: int) -> None:
    (listen,) = configured().listen
    assert isinstance(listen, ListenTcp)
    kind, python, flag, program = service("trace-proxy")["healthcheck"]["test"]
    assert (kind, python, flag) == ("CMD", "python", "-c")
    assert program.count(str(listen.port)) == 1

    with answering(status) as (port, seen):
        done = subprocess.run(
            [sys.executable, "-c", program.replace(str(listen.port), str(port))],
            capture_output=True,
            timeout=30,
            check=False,
        )

    assert (done.returncode, done.stderr, seen) == (exit_code, b"", ["/readyz"])
    assert "/readyz" in OPEN_PATHS


@contextmanager
def started(changes: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A real proxy under our environment and `changes`, once it is ready, and its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "trace_proxy"],
        cwd=ROOT,
        env=os.environ | changes,
        stderr=subprocess.PIPE,
        text=True,
    )
    guard = threading.Timer(30, process.kill)  # ends the loop below, whatever goes wrong
    guard.start()
    try:
        assert process.stderr
        events = (json.loads(line) for line in process.stderr)
        ready = next(event for event in events if event["event"] == "proxy.ready")
        yield process, int(ready["listen"][0].rpartition(":")[2])
    finally:
        process.kill()
        process.communicate()
        guard.cancel()


def test_what_compose_sets_starts_a_proxy_that_the_healthcheck_finds_ready(tmp_path: Path) -> None:
    image, compose_environment = image_environment(), environment()
    here = {
        **{name: value for name, value in image.items() if name != "PATH"},
        **compose_environment,
        "TRACE_PROXY_LISTEN": compose_environment["TRACE_PROXY_LISTEN"].rpartition(":")[0] + ":0",
        "CORE_SERVER_STORE": f"sqlite:///{tmp_path}/threads.db",
        "CORE_SERVER_WORKSPACE": str(tmp_path),
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",  # nobody is there
    }
    program = service("trace-proxy")["healthcheck"]["test"][-1]

    with started(here) as (process, port):
        checked = subprocess.run(
            [sys.executable, "-c", program.replace("4500", str(port))], timeout=30, check=False
        )
        process.terminate()
        assert process.wait(timeout=30) == 0

    assert checked.returncode == 0
    assert (tmp_path / "threads.db").exists()


def kubernetes_example() -> str:
    """The YAML of "More than one machine" in README.md."""
    section = (ROOT / "README.md").read_text().partition("## More than one machine\n")[2]
    return section.partition("```yaml\n")[2].partition("```")[0]


def test_the_kubernetes_example_has_options_that_we_take_and_ends_in_time(tmp_path: Path) -> None:
    text = kubernetes_example()
    for name in ("clients", "peers"):
        (tmp_path / name).write_text(f"{name}-token-of-some-length\n")
    (listed,) = re.findall(r"args: \[(.*?)\]", text, re.DOTALL)
    listed = listed.replace("$(POD)", "trace-proxy-0").replace("/run/tokens", str(tmp_path))
    argv = [word.strip().strip('"') for word in listed.split(",")]
    variables = set(re.findall(r"\{name: ([A-Z_]+),", text))
    (grace_s,) = re.findall(r"terminationGracePeriodSeconds: (\d+)", text)
    paths = re.findall(r"httpGet: \{path: (\S+), port: (\d+)\}", text)

    config = read_config(argv, image_environment())
    Entrance(config)

    (listen,) = config.listen
    assert isinstance(listen, ListenTcp)
    assert config.fleet.advertise_url == f"ws://trace-proxy-0.trace-proxy:{listen.port}"
    assert variables - {"POD"} <= FLEET
    assert 0 < config.drain_timeout_s <= float(grace_s) - CLOSING_S
    assert {path for path, _ in paths} <= OPEN_PATHS
    assert {port for _, port in paths} == {str(listen.port)}
    assert f"fsGroup: {arguments('USER')[0]}" in text


def compose_command() -> list[str] | None:
    """`docker compose` (Docker's plugin), else `docker-compose` (Debian's package)."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            done = subprocess.run(
                [*command, "version"], capture_output=True, timeout=60, check=False
            )
            if done.returncode == 0:
                return command
    return None


def test_compose_itself_accepts_the_file() -> None:
    command = compose_command()
    if command is None:
        pytest.skip("neither `docker compose` nor `docker-compose` works here")

    done = subprocess.run(
        [*command, "-f", "compose.yaml", "config", "--quiet"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
