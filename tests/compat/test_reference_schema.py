"""What we send fits the types that the real server publishes (`generate-json-schema`)."""

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from core_server.protocol.methods import METHODS
from core_server.protocol.notifications import NOTIFICATIONS, SERVER_REQUESTS
from tests.compat.real_codex import needs_newest_codex, newest_codex
from tests.core_process import completed, core, run_turn, start_thread, text
from tests.stdio_client import Json, RpcError, StdioClient

_NAMES = {
    "initialize": "InitializeResponse",
    "account/read": "GetAccountResponse",
    "account/logout": "LogoutAccountResponse",
    "account/login/cancel": "CancelLoginAccountResponse",
    "account/bedrock/checkGovCloudRequirements": "BedrockCheckGovCloudRequirementsResponse",
    "app/list": "AppsListResponse",
    "command/exec": "CommandExecResponse",
    "command/exec/write": "CommandExecWriteResponse",
    "mcpServerStatus/list": "ListMcpServerStatusResponse",
    "thread/name/set": "ThreadSetNameResponse",
    "thread/inject_items": "ThreadInjectItemsResponse",
    "thread/search/stream": "ThreadSearchResponse",
    "thread/search/stream/cancel": "ThreadSearchCancelResponse",
    "account/gatewayOAuth/cancel": "GatewayOAuthCancelResponse",
    "account/gatewayOAuth/read": "GatewayOAuthReadResponse",
    "account/bedrock/discover": "BedrockDiscoverResponse",
    "account/securitySetup/read": "GetAccountSecuritySetupResponse",
    "accountSession/list": "AccountSessionsResponse",
    "app/installed": "AppsInstalledResponse",
    "app/read": "AppsReadResponse",
    "config/mcpServer/reload": "McpServerRefreshResponse",
    "externalAgentConfig/import/readHistories": "ExternalAgentConfigImportHistoriesReadResponse",
}
_REQUIRED: dict[str, Json] = {
    "account/login/cancel": {"loginId": "x"},
    "app/read": {"appIds": ["x"]},
}
_OURS_ALONE = {"serverInfo"}
_PLAN = {"mode": "plan", "settings": {"model": "offline", "developer_instructions": None}}
_MESSAGE = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]}


pytestmark = needs_newest_codex


@pytest.fixture(scope="module")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> Json:
    out = tmp_path_factory.mktemp("schema")
    argv = [str(newest_codex()), "app-server", "generate-json-schema", "--experimental"]
    subprocess.run([*argv, "--out", str(out)], check=True)
    found: Json = json.loads((out / "codex_app_server_protocol.schemas.json").read_text())
    return found


def _check(schemas: Json, name: str, value: object) -> None:
    group = "v2/" if name in schemas["definitions"]["v2"] else ""
    reference = {"$ref": f"#/definitions/{group}{name}", "definitions": schemas["definitions"]}
    errors = [e.message for e in jsonschema.Draft7Validator(reference).iter_errors(value)]
    assert not errors, (name, errors[:3], value)


def _result_name(method: str) -> str:
    usual = "".join(part[0].upper() + part[1:] for part in method.split("/")) + "Response"
    return _NAMES.get(method, usual)


_HIDDEN = {"rawResponse/completed"}
_MODELS_ONLY = {"turn/plan/updated"}
"""Said of what a model does; `tests.core_server.turns.test_plan` has one that does it."""
"""The reference sends it to who asks for raw events, and its schema says nothing of it."""


def _by_method(schema: Json) -> dict[str, Json]:
    return {kind["properties"]["method"]["enum"][0]: kind for kind in schema["oneOf"]}


async def _a_bit_of_everything(client: StdioClient, workspace: Path) -> None:
    client.on_request = lambda _: {"result": {"decision": "acceptForSession"}}
    thread_id = await start_thread(client, cwd=str(workspace))
    for words in ("hello", "/think hard", "/run echo hi", "/write a.txt b", "/fail no"):
        await run_turn(client, thread_id, words)
    named = {"threadId": thread_id}
    await client.request("turn/start", {**named, "input": text("hi"), "effort": "low"})
    await client.wait(lambda m: m.get("method") == "turn/completed" and client.received[-1] is m)
    tool = {"name": "mailer", "output": "you have mail"}
    answer = await client.request("turn/start", {**named, "input": [], "toolOutput": tool})
    await completed(client, answer["turn"]["id"])
    answer = await client.request("turn/start", {**named, "input": text("/slow 30")})
    turn_id = answer["turn"]["id"]
    await client.wait_for("item/agentMessage/delta", turnId=turn_id)
    await client.request(
        "turn/steer", {**named, "expectedTurnId": turn_id, "input": text("/slow 9")}
    )
    await client.request("turn/interrupt", {**named, "turnId": turn_id})
    await completed(client, turn_id)
    await client.request("thread/compact/start", named)
    await client.wait(lambda m: m.get("method") == "turn/completed" and client.received[-1] is m)
    await client.request("thread/shellCommand", {**named, "command": "echo bang"})
    await client.wait_for("item/commandExecution/outputDelta")
    await client.wait(lambda m: m.get("method") == "turn/completed" and client.received[-1] is m)
    requests: dict[str, Json] = {
        "thread/name/set": {"name": "n"},
        "thread/goal/set": {"objective": "o"},
        "thread/goal/get": {},
        "thread/goal/clear": {},
        "thread/read": {"includeTurns": True},
        "thread/resume": {},
        "thread/turns/list": {"itemsView": "full"},
        "thread/items/list": {},
        "thread/settings/update": {"collaborationMode": _PLAN},
        "thread/inject_items": {"items": [_MESSAGE]},
        "thread/backgroundTerminals/list": {},
        "thread/backgroundTerminals/clean": {},
        "thread/backgroundTerminals/terminate": {"processId": "1"},
        "thread/searchOccurrences": {"searchTerm": "hello"},
        "thread/prepareApprovedPlan": {"markdown": "# a"},
    }
    for method, more in requests.items():
        await client.request(method, {**named, **more})
    await _marked_and_sampled(client, thread_id)
    review = await client.request(
        "review/start", {**named, "target": {"type": "custom", "instructions": "look"}}
    )
    await completed(client, review["turn"]["id"])
    for kind in ("", "/stream"):
        await client.request(f"thread/search{kind}", {"searchTerm": "hello"})
        await client.request(f"thread/search{kind}/cancel", {"requestId": 1})
    forked = await client.request("thread/fork", named)
    other = {"threadId": forked["thread"]["id"]}
    for method in ("unsubscribe", "archive", "unarchive", "delete"):
        await client.request(f"thread/{method}", other)
    await _the_rest(client)


async def _marked_and_sampled(client: StdioClient, thread_id: str) -> None:
    """What needs to know the thread's newest state; in plan mode by now."""
    named = {"threadId": thread_id}
    picture = {"type": "localImage", "path": "/a.png"}
    asked = text("a\n<proposed_plan>\n# p\n</proposed_plan>\nb")
    answer = await client.request("turn/start", {**named, "input": [picture, *asked]})
    turn_id = answer["turn"]["id"]
    await completed(client, turn_id)
    known = await client.request("thread/read", named)
    revision = known["readState"]["revision"]
    await client.request(
        "thread/readState/update",
        {**named, "expectedRevision": revision, "operation": {"type": "unread"}},
    )
    items = await client.request("thread/items/list", {**named, "turnId": turn_id})
    ids = [entry["item"]["id"] for entry in items["data"]]
    await client.request("thread/items/read", {**named, "turnId": turn_id, "itemIds": ids})
    sample = {**named, "expectedTurnId": turn_id, "prompt": "say"}
    await client.request("thread/sample", sample)
    await client.request("thread/sample/cancel", {"requestId": 1})


async def _typed(client: StdioClient, params: Json) -> bool:
    """A command takes some milliseconds to start; until then there is nobody to type to."""
    try:
        await client.request("command/exec/write", params)
    except RpcError:
        return False
    return True


async def _the_rest(client: StdioClient) -> None:
    running = client.begin(
        "command/exec",
        {
            "command": ["cat"],
            "processId": "p",
            "streamStdin": True,
            "streamStdoutStderr": True,
            "tty": True,
        },
    )
    typed = {"processId": "p", "deltaBase64": "aGkK"}
    async with asyncio.timeout(5):
        while not await _typed(client, typed):
            pass
    await client.wait_for("command/exec/outputDelta")
    await client.request("command/exec/resize", {"processId": "p", "size": {"rows": 9, "cols": 9}})
    await client.request("command/exec/terminate", {"processId": "p"})
    await client.answer(running)
    for method in sorted(set(METHODS) - {message.get("method") for message in client.sent}):
        if method not in ("account/login/start", "account/rateLimits/read"):
            unit = METHODS[method].params is None
            params = _REQUIRED.get(method, {})
            await client.request(method, None if unit else params)


async def test_every_message_fits_the_real_servers_types(schemas: Json, tmp_path: Path) -> None:
    async with core("--sandbox", "none", experimental=True, workspace=tmp_path) as client:
        await _a_bit_of_everything(client, tmp_path)
    asked = {message["id"]: message["method"] for message in client.sent if "method" in message}
    told: dict[str, Any] = _by_method(schemas["definitions"]["ServerNotification"])
    asks: dict[str, Any] = _by_method(schemas["definitions"]["ServerRequest"])
    for message in client.received:
        if "method" in message:
            kinds = asks if "id" in message else told
            _check(
                schemas,
                kinds[message["method"]]["properties"]["params"]["$ref"].split("/")[-1],
                message["params"],
            )
        elif "result" in message:
            result = message["result"]
            if isinstance(result, dict):
                result = {name: each for name, each in result.items() if name not in _OURS_ALONE}
            _check(schemas, _result_name(asked[message["id"]]), result)
    answered = {asked[m["id"]] for m in client.received if "result" in m and "id" in m}
    assert answered == set(METHODS) - {"account/login/start", "account/rateLimits/read"}
    assert set(client.methods()) == set(NOTIFICATIONS) - _HIDDEN - _MODELS_ONLY | set(
        SERVER_REQUESTS
    )


def test_we_know_no_method_that_the_real_server_does_not(schemas: Json) -> None:
    client = _by_method(schemas["definitions"]["ClientRequest"])
    server = _by_method(schemas["definitions"]["ServerNotification"])
    asks = _by_method(schemas["definitions"]["ServerRequest"])
    assert set(METHODS) <= set(client)
    assert set(NOTIFICATIONS) <= set(server) | _HIDDEN
    assert set(SERVER_REQUESTS) <= set(asks)
