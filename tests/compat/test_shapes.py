"""The same script against the real core and ours, with the same model: same messages, same members.

Both run on stdio with `tests.responses_api`. Of every step the messages that came are
compared in their order, and all members of each, at any depth. What differs and shall is
in the two tables here, each line with its reason; anything else fails.
"""

import contextlib
import itertools
import json
import sys
from collections.abc import AsyncIterator, Collection
from importlib import metadata
from pathlib import Path
from typing import Final

import pytest

from tests.compat import real_codex
from tests.compat.cores import CoreName
from tests.e2e.proxy import ROOT, Json
from tests.responses_api import Call, Reply, ResponsesApi
from tests.stdio_client import RpcError, StdioClient

VERSION: Final = "0.163"
"""Of the real core that the tables are about; ours follows 0.169."""

ONLY_REFERENCE: Final = {
    "warning": "the reference does not know the test's model; ours knows no such list",
    "deprecationNotice": "0.163 wants turns to be read in pages; 0.169 no longer says so",
}
"""Messages that the reference sends and we do not."""

SEQUENCES: Final[dict[str, tuple[str, str]]] = {
    "run": (
        "-item/commandExecution/outputDelta",
        "the reference leaves the first piece of output out of the deltas",
    ),
    "steer": ("+usage", "the reference counts the response that it gave up; we do not"),
    "interrupt": ("+usage", "as for steer"),
    "fail": ("+usage", "the reference repeats the last count when a response fails"),
    "no params": ("~", "we say -32602 where params have the wrong shape, as JSON-RPC has it"),
}
"""Steps whose messages differ otherwise: `-` the reference has it not, `+` we have it not."""

USAGE: Final = ("thread/tokenUsage/updated", "account/rateLimits/updated")

BEGUN: Final = ("thread/status/changed", "turn/started")
"""What the reference may say before it has answered `turn/start`: two tasks of it race. We answer first."""

LATER: Final = frozenset(
    "attachedToThreadId startedAtMs completedAtMs contentTokenCount moderation userId".split()
)
"""Members that came between 0.163 and 0.169: ours has them, at any place."""

OURS: Final = {
    "serverInfo": "clients that look for a name and version find them",
    "environments": "of an unarchived thread the reference says it only when it is loaded",
    "reason": "of an approval: ours says why it asks; the reference when the model did",
    "layers": "null where the reference says nothing",
}

MISSING: Final = {
    "collaborationMode": "we have one mode; the TUI takes its absence for it",
    "sandbox": "a fork of ours has the sandbox of its thread, not the configuration's",
    "activePermissionProfile": "we have no named profiles",
    "initialTurnsPage": "pages are read with thread/turns/list",
    "itemsBackwardsCursor": "the same",
    "turnsBackwardsCursor": "the same",
    "availableAccessPrograms": "of the vendor's models",
    "availabilityNux": "the same",
    "multiAgentVersion": "the same",
    "serviceTiers": "the same",
    "upgradeInfo": "the same",
    "config": "we have four of its settings",
    "origins": "and one place that they come from",
}
"""Members, with all below them, that the reference has and we have not."""

UUID_LENGTH: Final = 36
"""A member so long is an id."""

Step = tuple[str, frozenset[str]]
"""What a message is, and the members it has."""


@pytest.mark.skipif(
    real_codex.codex_path() is None
    or not metadata.version("openai-codex-cli-bin").startswith(VERSION + "."),
    reason=f"codex {VERSION} is not installed",
)
async def test_our_core_says_what_the_real_one_says(tmp_path: Path) -> None:
    reference = await _played("codex", tmp_path / "codex")
    ours = await _played("ours", tmp_path / "ours")

    assert {step: _expected(step, said) for step, said in reference.items()} == {
        step: _kinds(said) for step, said in ours.items()
    }
    missing, extra = _members(reference, ours)
    assert {path for path in missing if not _below(path, MISSING)} == set()
    assert {path for path in extra if not _below(path, {*LATER, *OURS})} == set()


def _kinds(said: list[Step]) -> list[str]:
    return [kind for kind, _ in said]


def _expected(step: str, said: list[Step]) -> list[str]:
    """What ours shall say, given what the reference said and the tables."""
    kinds = [kind for kind in _kinds(said) if kind not in ONLY_REFERENCE]
    change = SEQUENCES.get(step, ("", ""))[0]
    match change[:1]:
        case "+":
            kinds = [kind for kind in kinds if kind not in USAGE]
        case "-":
            place = kinds.index("item/completed commandExecution")
            kinds.insert(place, change[1:])
        case "~":
            kinds = ["error -32602"]
        case _:
            pass
    return _answered_first(kinds)


def _answered_first(kinds: list[str]) -> list[str]:
    before = list(itertools.takewhile(lambda kind: kind in BEGUN, kinds))
    if "turn/started" in kinds and kinds[len(before) :][:1] == ["result"]:
        return ["result", *before, *kinds[len(before) + 1 :]]
    return kinds


def _members(
    reference: dict[str, list[Step]], ours: dict[str, list[Step]]
) -> tuple[set[str], set[str]]:
    """Paths that only one of them has, in messages that both have."""
    missing: set[str] = set()
    extra: set[str] = set()
    for step, said in reference.items():
        theirs, mine = _merged(said), _merged(ours[step])
        for kind in theirs.keys() & mine.keys():
            missing |= {f"{step}: {kind}{path}" for path in theirs[kind] - mine[kind]}
            extra |= {f"{step}: {kind}{path}" for path in mine[kind] - theirs[kind]}
    return missing, extra


def _merged(said: list[Step]) -> dict[str, set[str]]:
    merged: dict[str, set[str]] = {}
    for kind, members in said:
        merged.setdefault(kind, set()).update(members)
    return merged


def _below(path: str, known: Collection[str]) -> bool:
    return any(name in known for name in path.replace("[]", "").split("."))


async def _played(name: CoreName, directory: Path) -> dict[str, list[Step]]:
    async with _core(name, directory) as (client, api):
        script = _Script(client)
        await script.play(api, name)
        return script.said


class _Script:
    """The steps, and what was said in each."""

    def __init__(self, client: StdioClient) -> None:
        self.said: dict[str, list[Step]] = {}
        self._client = client
        client.on_request = lambda _: {"result": {"decision": "accept"}}

    async def play(self, api: ResponsesApi, name: CoreName) -> None:
        begin = {"approvalPolicy": "untrusted", "sandbox": "danger-full-access"}
        await self._client.initialize(experimental=True)
        await self._end("initialize", 0)
        thread = (await self._step("start", "thread/start", begin))["thread"]["id"]
        await self._turns(thread, api, name)
        await self._reads({"threadId": thread})

    async def _turns(self, thread: str, api: ResponsesApi, name: CoreName) -> None:
        done = "turn/completed"
        await self._step("text", "turn/start", _input(thread, "text: a b c"), done)
        api.script(Reply((_call(name, "echo hi; exit 3"),)))
        await self._step("run", "turn/start", _input(thread, "run"), done)
        await self._step("think", "turn/start", _input(thread, "think: hm"), done)
        slow = _input(thread, "slow: 30")
        first = "item/agentMessage/delta"
        turn = (await self._step("slow", "turn/start", slow, first))["turn"]["id"]
        steer = {**slow, "expectedTurnId": turn}
        await self._step("steer", "turn/steer", steer, "item/completed")
        stop = {"threadId": thread, "turnId": turn}
        await self._step("interrupt", "turn/interrupt", stop, done)
        await self._step("fail", "turn/start", _input(thread, "fail: no"), done)

    async def _reads(self, of: Json) -> None:
        step = self._step
        await step("read", "thread/read", {**of, "includeTurns": True})
        await step("list", "thread/list", {})
        await step("loaded", "thread/loaded/list", {})
        await step("name", "thread/name/set", {**of, "name": "n"}, "thread/name/updated")
        await step("turns", "thread/turns/list", of)
        await step("items", "thread/items/list", of)
        fork = (await step("fork", "thread/fork", of, "thread/started"))["thread"]["id"]
        await step("resume", "thread/resume", of, "thread/goal/cleared")
        await step("archive", "thread/archive", {"threadId": fork}, "thread/archived")
        await step("unarchive", "thread/unarchive", {"threadId": fork}, "thread/unarchived")
        await step("unsubscribe", "thread/unsubscribe", of)
        await step("delete", "thread/delete", {"threadId": fork}, "thread/deleted")
        await step("models", "model/list", {})
        await step("account", "account/read", {})
        await step("limits", "account/rateLimits/read", None)
        await step("config", "config/read", {})
        await step("exec", "command/exec", {"command": ["echo", "hi"]})
        unknown = {"threadId": "01a2025f-778c-71c3-83de-000000000000"}
        await step("unknown thread", "thread/read", unknown)
        await step("no thread id", "thread/read", {"threadId": "x"})
        await step("no params", "thread/read", {})

    async def _step(self, name: str, method: str, params: object, until: str = "") -> Json:
        start = len(self._client.received)
        try:
            result = await self._client.request(method, params)
        except RpcError:
            result = {}
        if until:
            await self._client.wait_for(until)
        await self._end(name, start)
        return result

    async def _end(self, name: str, start: int) -> None:
        """What belongs to a step has come when the next request is answered."""
        await self._client.request("thread/loaded/list", {})
        end = len(self._client.received) - 1
        said = [_step_of(message) for message in self._client.received[start:end]]
        self.said[name] = [
            step for i, step in enumerate(said) if i == 0 or step[0] != said[i - 1][0]
        ]


def _step_of(message: Json) -> Step:
    if "method" in message:
        item = message.get("params", {}).get("item", {})
        kind = f"{message['method']} {item['type']}" if item else message["method"]
    else:
        kind = "result" if "result" in message else f"error {message['error']['code']}"
    return kind, frozenset(_paths(message))


def _paths(value: object, at: str = "") -> set[str]:
    """All members, at any depth; elements of lists are one."""
    if isinstance(value, dict):
        named = {"(id)" if len(key) == UUID_LENGTH else key: each for key, each in value.items()}
        below = {path for key, each in named.items() for path in _paths(each, f"{at}.{key}")}
        return below | {f"{at}.{key}" for key in named}
    if isinstance(value, list):
        return {path for each in value for path in _paths(each, f"{at}[]")}
    return set()


def _input(thread: str, text: str) -> Json:
    return {"threadId": thread, "input": [{"type": "text", "text": text}]}


def _call(name: CoreName, command: str) -> Call:
    """A command, as each core's own tool takes it."""
    if name == "codex":
        return Call("exec_command", json.dumps({"cmd": command, "login": False}))
    argv = ["bash", "-c", command]
    return Call("shell", json.dumps({"command": argv, "workdir": None, "timeout_ms": None}))


@contextlib.asynccontextmanager
async def _core(
    name: CoreName, directory: Path
) -> AsyncIterator[tuple[StdioClient, ResponsesApi]]:
    async with ResponsesApi() as api:
        env = real_codex.codex_home(directory, api.url)
        argv = real_codex.app_server()
        if name == "ours":
            argv = [sys.executable, "-m", "core_server", "--engine", "openai"]
            argv += ["--model", real_codex.MODEL, "--store", f"sqlite:///{directory}/threads.db"]
            env |= {"PYTHONPATH": str(ROOT), "OPENAI_BASE_URL": api.url, "OPENAI_API_KEY": "none"}
        async with StdioClient.spawned(argv, env=env, cwd=str(directory / "workspace")) as client:
            yield client, api
