"""Our core as a process, for end-to-end tests; every message it sends fits its schema."""

import contextlib
import functools
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema

from core_server.protocol.schema import documents
from tests.stdio_client import Json, StdioClient

ROOT = Path(__file__).parent.parent
CORE = (sys.executable, "-m", "core_server")


@contextlib.asynccontextmanager
async def core(
    *options: str,
    workspace: Path | None = None,
    initialize: bool = True,
    experimental: bool = False,
    env: dict[str, str] | None = None,
    store: str = "memory",
    program: tuple[str, ...] = CORE,
) -> AsyncIterator[StdioClient]:
    """A running core with a client; checks all messages against the schema at the end."""
    where = ("--workspace", str(workspace)) if workspace else ()
    argv = (*program, "--store", store, *where, *options)
    with tempfile.TemporaryDirectory() as home:
        # Commands run in a login shell; whose profile this machine has is not our subject.
        own = {"HOME": home, **(env or {})}
        async with StdioClient.spawned(argv, cwd=str(ROOT), env=own) as client:
            if initialize:
                await client.initialize(experimental=experimental)
            yield client
    check_schema(client)


async def start_thread(client: StdioClient, **params: object) -> str:
    """A new thread; returns its id."""
    result = await client.request("thread/start", params)
    thread_id: str = result["thread"]["id"]
    return thread_id


def text(words: str) -> list[Json]:
    """Input of a turn."""
    return [{"type": "text", "text": words}]


async def run_turn(client: StdioClient, thread_id: str, words: str) -> Json:
    """Run a turn to its end; returns the params of `turn/completed`."""
    answer = await client.request("turn/start", {"threadId": thread_id, "input": text(words)})
    return await completed(client, answer["turn"]["id"])


async def completed(client: StdioClient, turn_id: str) -> Json:
    """Wait for the end of a turn."""
    message = await client.wait(
        lambda known: (
            known.get("method") == "turn/completed" and known["params"]["turn"]["id"] == turn_id
        ),
        20.0,
    )
    params: Json = message["params"]
    return params


@functools.cache
def _validators() -> dict[str, Any]:
    return {
        name: jsonschema.Draft202012Validator(document) for name, document in documents().items()
    }


def check_schema(client: StdioClient) -> None:
    """Validate all that the core said against what `core-server schema` writes."""
    asked = {message["id"]: message["method"] for message in client.sent if "method" in message}
    for message in client.received:
        for validator, value in _validation(message, asked):
            errors = [error.message for error in validator.iter_errors(value)]
            assert not errors, (message, errors[:3])


def _validation(message: Json, asked: dict[object, str]) -> list[tuple[Any, Any]]:
    known = _validators()
    if "error" in message:
        return [(known["Error.json"], message)]
    if "method" in message:
        name = "ServerRequest.json" if "id" in message else "ServerNotification.json"
        kinds = known[name].schema["oneOf"]
        place = next(at for at, kind in enumerate(kinds) if kind["title"] == message["method"])
        return [(known[name].evolve(schema=_alone(known[name].schema, place)), message)]
    method = asked.get(message["id"])
    if method is None:
        return []
    return [(known["ClientResults.json"], {method: message["result"]})]


def _alone(schema: Json, place: int) -> Json:
    return {**schema["oneOf"][place], "$defs": schema["$defs"]}
