"""Bad input gets a clear error each, and the next request works."""

import asyncio
import sys

import msgspec
import pytest

from tests.core_process import ROOT, core, start_thread, text
from tests.stdio_client import Json, RpcError, StdioClient

UNKNOWN = "01a2025f-778c-71c3-83de-000000000000"


@pytest.mark.parametrize(
    ("line", "code", "answered"),
    [
        (b"{not json", -32700, None),
        (b"\xef\xbb\xbf{}", -32700, None),
        (b'{"id":1,"method":"\xff"}', -32700, None),
        (b'{"id":1,"method":"a","params":NaN}', -32700, None),
        (b'{"id":1,"method":"\\ud800"}', -32700, 1),
        (b"[]", -32600, None),
        (b"17", -32600, None),
        (b"{}", -32600, None),
        (b'{"id":7}', -32600, 7),
        (b'{"id":7,"method":5}', -32600, 7),
        (b'{"id":null,"method":"thread/loaded/list","params":{}}', -32600, None),
        (b'{"id":1.5,"method":"thread/loaded/list","params":{}}', -32600, None),
        (b'{"id":7,"jsonrpc":"1.0","method":"thread/loaded/list","params":{}}', -32600, 7),
        (
            b'{"id":7,"method":"initialize","params":{"clientInfo":{"name":"a","version":"1"}}}',
            -32600,
            7,
        ),
        (b'{"id":7,"method":"nope/nope"}', -32601, 7),
        (b'{"id":7,"method":"thread/read","params":{}}', -32602, 7),
        (b'{"id":7,"method":"thread/read"}', -32602, 7),
        (b'{"id":7,"method":"thread/read","params":[]}', -32602, 7),
        (b'{"id":7,"method":"thread/read","params":{"threadId":5}}', -32602, 7),
        (b'{"id":7,"method":"account/logout","params":[]}', -32602, 7),
        (b'{"id":7,"method":"x","params":' + b"[" * 200 + b"]" * 200 + b"}", -32600, 7),
    ],
)
async def test_bad_input_is_answered_and_the_next_request_works(
    line: bytes, code: int, answered: int | None
) -> None:
    async with core() as client:
        client.write(line)
        error = await client.wait(lambda message: "error" in message)
        assert (error["error"]["code"], error["id"]) == (code, answered)
        assert await client.request("thread/loaded/list", {}) == {"data": [], "nextCursor": None}


async def test_wrong_params_name_the_field() -> None:
    async with core() as client:
        for method, params, message in [
            ("thread/read", {}, "Invalid params: missing field `threadId`"),
            ("thread/read", None, "Invalid params: missing field `params`"),
            (
                "thread/read",
                {"threadId": 5},
                "Invalid params: `threadId`: expected `str`, got `int`",
            ),
            (
                "turn/start",
                {"threadId": "x", "input": [{"type": "text"}]},
                "Invalid params: missing field `text` in `input[0]`",
            ),
        ]:
            with pytest.raises(RpcError) as error:
                await client.request(method, params)
            assert (error.value.code, error.value.message) == (-32602, message)


async def test_before_the_handshake_nothing_is_served() -> None:
    async with core(initialize=False) as client:
        with pytest.raises(RpcError) as error:
            await client.request("thread/loaded/list", {})
        assert (error.value.code, error.value.message) == (-32600, "Not initialized")
        await client.initialize()
        assert await client.request("thread/loaded/list", {}) == {"data": [], "nextCursor": None}


async def test_the_experimental_surface_needs_the_capability() -> None:
    async with core() as client:
        thread_id = await start_thread(client)
        turn = {"threadId": thread_id, "input": [], "environments": []}
        for method, params, what in [
            ("collaborationMode/list", {}, "collaborationMode/list"),
            ("thread/start", {"mockExperimentalField": "x"}, "thread/start.mockExperimentalField"),
            ("turn/start", turn, "turn/start.environments"),
        ]:
            with pytest.raises(RpcError) as error:
                await client.request(method, params)
            assert error.value.message == f"{what} requires experimentalApi capability"
    async with core(experimental=True) as client:
        modes = await client.request("collaborationMode/list", {})
        assert [mode["mode"] for mode in modes["data"]] == ["plan", "default"]


@pytest.mark.parametrize("request_id", ["abc", "", "26", -5, 0, 2**53 + 1, 2**63 - 1])
async def test_ids_are_echoed_exactly(request_id: object) -> None:
    async with core() as client:
        client.send({"id": request_id, "method": "thread/loaded/list", "params": {}})
        answer = await client.answer(request_id)
        assert answer == {"data": [], "nextCursor": None}
        last = next(m for m in client.received if m.get("id") == request_id and "result" in m)
        assert type(last["id"]) is type(request_id)


async def test_a_wrong_trace_is_ignored() -> None:
    async with core() as client:
        for trace in ["text", {"traceparent": 5}, None, {"traceparent": "00-zz"}]:
            answer = await client.request("thread/loaded/list", {}, trace=trace)
            assert answer == {"data": [], "nextCursor": None}


async def test_a_message_over_the_limit_is_refused_and_the_next_line_is_read() -> None:
    async with core("--max-message-bytes", "4096") as client:
        client.write(b'{"id":"big","method":"thread/list","params":{"x":"' + b"a" * 9000 + b'"}}')
        with pytest.raises(RpcError) as error:
            await client.answer("big")
        assert error.value.data == {"reason": "messageTooLarge", "limitBytes": 4096}
        assert await client.request("thread/loaded/list", {}) == {"data": [], "nextCursor": None}


async def test_too_much_input_is_refused_with_the_references_data() -> None:
    async with core() as client:
        thread_id = await start_thread(client)
        with pytest.raises(RpcError) as error:
            await client.request(
                "turn/start", {"threadId": thread_id, "input": text("a" * (2**20 + 1))}
            )
    assert (error.value.code, error.value.message) == (
        -32602,
        "Input exceeds the maximum length of 1048576 characters.",
    )
    assert error.value.data == {
        "input_error_code": "input_too_large",
        "max_chars": 2**20,
        "actual_chars": 2**20 + 1,
    }


@pytest.mark.parametrize(
    ("method", "params", "message"),
    [
        ("turn/start", {"threadId": UNKNOWN, "input": []}, f"thread not found: {UNKNOWN}"),
        ("thread/read", {"threadId": UNKNOWN}, f"thread not loaded: {UNKNOWN}"),
        ("thread/resume", {"threadId": UNKNOWN}, f"no rollout found for thread id {UNKNOWN}"),
        ("thread/archive", {"threadId": UNKNOWN}, f"no rollout found for thread id {UNKNOWN}"),
        (
            "thread/name/set",
            {"threadId": UNKNOWN, "name": "x"},
            f"no rollout found for thread id {UNKNOWN}",
        ),
        (
            "thread/resume",
            {"threadId": "zzz"},
            (
                "invalid session id: invalid character: expected an optional prefix of `urn:uuid:`"
                " followed by [0-9a-fA-F-], found `z` at 1"
            ),
        ),
        ("command/exec", {"command": []}, "command must not be empty"),
        (
            "command/exec/terminate",
            {"processId": "zzz"},
            'no active command/exec for process id "zzz"',
        ),
        (
            "account/rateLimits/read",
            None,
            "codex account authentication required to read rate limits",
        ),
    ],
)
async def test_state_refuses_in_the_references_words(
    method: str, params: Json | None, message: str
) -> None:
    async with core() as client:
        with pytest.raises(RpcError) as error:
            await client.request(method, params)
    assert (error.value.code, error.value.message) == (-32600, message)


async def test_twenty_thousand_requests_are_answered_once_though_nobody_reads() -> None:
    argv = (sys.executable, "-m", "core_server", "--store", "memory")
    count = 20_000
    async with StdioClient.spawned(argv, cwd=str(ROOT), read=False) as client:
        info = {"clientInfo": {"name": "flood", "version": "1"}}
        client.send({"id": -1, "method": "initialize", "params": info})
        for number in range(count):
            client.send({"id": number, "method": "thread/loaded/list", "params": {}})
        assert client.process.stdin is not None
        async with asyncio.timeout(30):
            await client.process.stdin.drain()
        reading = client.read_stdout
        async with asyncio.TaskGroup() as group:
            group.create_task(reading())
            await client.answer(count - 1, 30.0)
            await client.close()
    ids = [message["id"] for message in client.received if "result" in message]
    assert ids == [-1, *range(count)]


async def test_a_stray_print_does_not_reach_the_wire() -> None:
    program = (
        "import core_server.handlers.account as account, os\n"
        "from core_server import cli\n"
        "from core_server.handlers import table\n"
        "def loud(context, params):\n"
        "    print('stray', flush=True)\n"
        "    os.write(1, b'raw\\n')\n"
        "    return account.read(context, params)\n"
        "table.HANDLERS['account/read'] = loud\n"
        "raise SystemExit(cli.main(['--store', 'memory']))\n"
    )
    async with StdioClient.spawned((sys.executable, "-c", program), cwd=str(ROOT)) as client:
        await client.initialize()
        account = await client.request("account/read", {})
    assert account["requiresOpenaiAuth"] is False
    said = [line for line in client.stderr.splitlines() if not line.startswith(b"{")]
    assert said == [b"stray", b"raw"]


async def test_the_last_line_needs_no_newline() -> None:
    async with core() as client:
        assert client.process.stdin is not None
        client.process.stdin.write(
            msgspec.json.encode({"id": "last", "method": "thread/loaded/list", "params": {}})
        )
        client.process.stdin.close()
        assert await client.answer("last") == {"data": [], "nextCursor": None}
