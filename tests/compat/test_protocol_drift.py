"""Our tables against the newest codex: what is new there is named here, not guessed.

A failure of this file after an update of codex is news, not a fault: add the names.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from core_server.protocol.methods import METHODS, REFUSED, SAYS_NOTHING
from core_server.protocol.notifications import NOTIFICATIONS, SERVER_REQUESTS
from core_server.protocol.wire import PROTOCOL_VERSION
from tests.compat.real_codex import needs_newest_codex, newest_codex
from trace_proxy.protocol import experimental, methods

pytestmark = needs_newest_codex

UNPUBLISHED = {"rawResponse/completed"}
"""Sent by the reference to who asks for raw events, and not in its schema."""

Json = dict[str, Any]


def _generated(out: Path, *options: str) -> Path:
    argv = [str(newest_codex()), "app-server", "generate-json-schema", *options]
    subprocess.run([*argv, "--out", str(out)], check=True)
    return out


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _generated(tmp_path_factory.mktemp("everything"), "--experimental")


@pytest.fixture(scope="module")
def stable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _generated(tmp_path_factory.mktemp("stable"))


def _kinds(folder: Path, name: str) -> dict[str, Json]:
    document: Json = json.loads((folder / name).read_text())
    return {kind["properties"]["method"]["enum"][0]: kind for kind in document["oneOf"]}


def _fields(folder: Path) -> dict[str, list[str]]:
    document: Json = json.loads((folder / "ClientRequest.json").read_text())
    found = {}
    for kind in document["oneOf"]:
        reference = kind["properties"].get("params", {}).get("$ref", "").split("/")[-1]
        fields = document["definitions"].get(reference, {}).get("properties", {})
        found[kind["properties"]["method"]["enum"][0]] = list(fields)
    return found


def test_the_proxy_knows_every_method(everything: Path) -> None:
    assert set(_kinds(everything, "ClientRequest.json")) - methods.KNOWN == set()


def test_the_proxy_knows_what_servers_ask(everything: Path) -> None:
    assert set(_kinds(everything, "ServerRequest.json")) - methods.SERVER_REQUESTS == set()


def test_the_proxy_gates_what_is_experimental(everything: Path, stable: Path) -> None:
    gated = set(_kinds(everything, "ClientRequest.json")) - set(
        _kinds(stable, "ClientRequest.json")
    )
    assert gated == experimental.METHODS
    whole, open_ = _fields(everything), _fields(stable)
    fields = {
        name: tuple(field for field in whole[name] if field not in open_[name]) for name in open_
    }
    assert {name: set(found) for name, found in fields.items() if found} == {
        name: set(found) for name, found in experimental.PARAMS.items()
    }


def _naming_requests(folder: Path, name: str) -> set[str]:
    """Methods with params that name a request of its sender."""
    document: Json = json.loads((folder / name).read_text())
    found = set()
    for kind in document["oneOf"]:
        reference = kind["properties"].get("params", {}).get("$ref", "").split("/")[-1]
        fields = document["definitions"].get(reference, {}).get("properties", {})
        if {"requestId", "request_id"} & fields.keys():
            found.add(kind["properties"]["method"]["enum"][0])
    return found


def test_the_proxy_translates_every_request_id_in_params(everything: Path) -> None:
    assert _naming_requests(everything, "ClientRequest.json") == methods.CANCELS
    told = _naming_requests(everything, "ServerNotification.json")
    assert told == methods.TOLD_TO_ASKER | {"serverRequest/resolved"}


def test_our_core_gates_what_it_serves_alike() -> None:
    gated = {name for name, method in METHODS.items() if method.experimental}
    assert gated == set(METHODS) & experimental.METHODS


def test_our_core_serves_every_method_or_says_why_not(everything: Path) -> None:
    tables = (METHODS, SAYS_NOTHING, REFUSED)
    assert sorted(_kinds(everything, "ClientRequest.json")) == sorted(
        name for table in tables for name in table
    )


def test_our_core_makes_up_nothing(everything: Path) -> None:
    assert set(METHODS) <= set(_kinds(everything, "ClientRequest.json"))
    known = set(_kinds(everything, "ServerNotification.json")) | UNPUBLISHED
    assert set(NOTIFICATIONS) <= known
    assert set(SERVER_REQUESTS) <= set(_kinds(everything, "ServerRequest.json"))


def test_our_core_says_the_version_that_it_was_compared_with() -> None:
    done = subprocess.run(
        [str(newest_codex()), "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-1] == PROTOCOL_VERSION
