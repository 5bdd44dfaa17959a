"""No input of any method ends in an internal error: sequences over two cores on one store.

Short by default; `-n 0 -m slow` sends a million, or CORE_FUZZ_REQUESTS, in runs of `RUN`.
The tables are what fuzzing, and attacks by hand, have found.
"""

import asyncio
import contextlib
import os
import tempfile
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.core_process import core, run_turn, start_thread
from tests.fuzz.cores import fuzz
from tests.stdio_client import Json, RpcError

RUN = 50_000


@settings(
    max_examples=3,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # a failing seed says all already
    suppress_health_check=[HealthCheck.too_slow],
)
@given(seed=st.integers(0, 2**32))
def test_no_sequence_of_requests_ends_in_an_internal_error(seed: int) -> None:
    assert _fuzzed(seed, 400, commands=0.03) == []


@pytest.mark.slow
def test_no_million_of_requests_does_either() -> None:
    total = int(os.environ.get("CORE_FUZZ_REQUESTS", "1000000"))
    first_seed = Random().randrange(2**32)  # noqa: S311 - printed, so that it can be repeated
    for place, sent in enumerate(range(0, total, RUN)):
        count = min(RUN, total - sent)
        assert _fuzzed(first_seed + place, count, commands=0.01) == []


def _fuzzed(seed: int, count: int, *, commands: float) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:  # and a loop: Hypothesis knows no coroutines
        return asyncio.run(fuzz(Path(folder), seed, count, commands=commands))


def left_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


EXECUTIONS: list[tuple[Json, str]] = [
    ({"size": {"rows": -1, "cols": 80}, "tty": True, "processId": "p"}, "size.rows"),
    ({"size": {"rows": 24, "cols": 65536}, "tty": True, "processId": "p"}, "size.cols"),
    ({"size": {"rows": 10**30, "cols": 1}, "tty": True, "processId": "p"}, "size.rows"),
    ({"cwd": "a\0b"}, "cwd"),
    ({"command": ["a\0b"]}, "command"),
    ({"command": ["echo", "a\0b"]}, "command"),
    ({"env": {"A": "a\0b"}}, "env"),
    ({"env": {"a\0b": "x"}}, "env"),
    ({"env": {"": "x"}}, "env"),
    ({"env": {"A=B": "x"}}, "env"),
    (
        {"sandboxPolicy": {"type": "workspaceWrite", "writableRoots": ["a\0b"]}},
        "sandboxPolicy.writableRoots",
    ),
    ({"timeoutMs": -1}, "timeoutMs"),
    ({"timeoutMs": 10**400}, "timeoutMs"),
    ({"outputBytesCap": -1}, "outputBytesCap"),
]


@pytest.mark.parametrize(("members", "field"), EXECUTIONS)
async def test_a_command_that_cannot_be_is_refused_by_its_field(
    members: Json, field: str, tmp_path: Path
) -> None:
    async with core(env={"TMPDIR": str(tmp_path)}) as client:
        with pytest.raises(RpcError) as refused:
            await client.request("command/exec", {"command": ["true"], **members})
    assert refused.value.code == -32602
    assert f"`{field}" in refused.value.message
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("command", [["/nonexistent"], [""], ["/"], ["x" * 5000], ["x"] * 500_000])
async def test_a_command_that_does_not_start_is_no_internal_error(
    command: list[str], tmp_path: Path
) -> None:
    async with core(env={"TMPDIR": str(tmp_path)}) as client:
        with pytest.raises(RpcError) as refused:
            await client.request("command/exec", {"command": command})
    assert refused.value.code == -32600
    assert refused.value.message.startswith("failed to spawn command: ")
    assert left_in(tmp_path) == []


async def test_the_lease_stays_with_who_has_the_thread_loaded(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/threads.db"
    async with core("--approval-policy", "never", store=store) as mine, core(store=store) as other:
        thread_id = await start_thread(mine)
        await run_turn(mine, thread_id, "hello")
        for method in ("thread/unarchive", "thread/name/set"):
            await mine.request(method, {"threadId": thread_id, "name": "a name"})
            with pytest.raises(RpcError) as refused:
                await other.request("thread/resume", {"threadId": thread_id})
            assert refused.value.data["reason"] == "threadOwned"
        assert (await run_turn(mine, thread_id, "again"))["turn"]["status"] == "completed"

        await mine.request("thread/archive", {"threadId": thread_id})
        await other.request("thread/unarchive", {"threadId": thread_id})
        await other.request("thread/resume", {"threadId": thread_id})
        with pytest.raises(RpcError) as refused:
            await mine.request("thread/resume", {"threadId": thread_id})
        assert refused.value.data["reason"] == "threadOwned"


@pytest.mark.parametrize(
    "answer",
    [
        b'{"id":1,"result":{},"error":{"code":1,"message":"both"}}',
        b'{"id":null,"result":{}}',
        b'{"id":{},"result":{}}',
        b'{"id":1,"id":1,"result":{}}',
        b'{"id":1,"result":' + b"[" * 200 + b"]" * 200 + b"}",
        b'{"jsonrpc":"1.0","id":1,"result":{}}',
        b'{"id":77,"result":{"decision":"accept"}}',
    ],
)
async def test_an_answer_of_the_client_has_no_answer_itself(answer: bytes) -> None:
    async with core() as client:
        client.write(answer)
        result = await client.request("model/list", {})
        assert result["data"]
        ids = [message.get("id") for message in client.received if "method" not in message]
    with contextlib.suppress(ValueError):
        ids.remove(client.sent[0]["id"])
    assert ids == [client.sent[-1]["id"]]
