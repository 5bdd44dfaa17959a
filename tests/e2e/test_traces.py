"""The traces of a real proxy in front of our own core: whole trees, and what spans say."""

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.collector import CollectedLink, CollectedSpan
from tests.e2e.proxy import RpcError, turn_params
from tests.e2e.traces import PARENT_SPAN, Scene, Stage, traced

pytestmark = pytest.mark.asyncio(loop_scope="module")

TURN_START = "trace-proxy: turn/start [server]"
TURN = "  core-server: invoke_agent core-server [internal]"
COMMAND_APPROVAL = "      client: approval command [client]"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with traced() as stage:
        yield stage


@pytest_asyncio.fixture(loop_scope="module")
async def scene(stage: Stage) -> AsyncIterator[Scene]:
    async with stage.scene() as scene:
        yield scene


def of_turn(scene: Scene, turn: str) -> dict[str, Any]:
    """What all spans of a turn say."""
    return {
        "gen_ai.conversation.id": scene.thread,
        "gen_ai.agent.name": "core-server",
        "gen_ai.provider.name": "offline",
        "session.id": scene.thread,
        "trace_proxy.turn.id": turn,
        "trace_proxy.core.id": 0,
        "trace_proxy.client.name": "e2e",
    }


def only(span: CollectedSpan, prefix: str) -> dict[str, Any]:
    return {key: value for key, value in span.attributes.items() if key.startswith(prefix)}


def link_to(span: CollectedSpan) -> tuple[CollectedLink, ...]:
    return (CollectedLink(span.trace_id, span.span_id),)


async def test_a_plain_turn_is_a_request_with_the_turn_below_it(scene: Scene) -> None:
    before_ns = time.time_ns()
    done = await scene.turn("hello there world")
    after_ns = time.time_ns()

    request, turn = await scene.becomes(TURN_START, TURN)

    assert request.attributes.pop("server.address") == "127.0.0.1"
    assert isinstance(request.attributes.pop("server.port"), int)
    port = request.attributes.pop("network.peer.port")
    connection = request.attributes.pop("trace_proxy.connection.id")
    assert isinstance(port, int)
    assert connection.isdigit()
    assert request.attributes == {
        "rpc.system.name": "jsonrpc",
        "rpc.method": "turn/start",
        "jsonrpc.request.id": "3",
        "network.transport": "tcp",
        "network.protocol.name": "websocket",
        "network.peer.address": "127.0.0.1",
        "trace_proxy.core.id": 0,
        "trace_proxy.client.name": "e2e",
        "trace_proxy.client.version": "1",
        "trace_proxy.context.source": "message",
        "gen_ai.conversation.id": scene.thread,
        "trace_proxy.turn.id": done["id"],
    }
    first_delta_s = turn.attributes.pop("trace_proxy.turn.time_to_first_delta")
    assert 0 < first_delta_s < (turn.end_ns - turn.start_ns) / 1e9
    assert turn.attributes == {
        **of_turn(scene, done["id"]),
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.id": scene.thread,
        "gen_ai.request.model": "offline",
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 3,
        "trace_proxy.turn.index": 0,
        "trace_proxy.turn.status": "completed",
        "trace_proxy.turn.deltas": 3,
        "trace_proxy.turn.output_bytes": len("hello there world"),
    }
    assert request.parent_span_id == PARENT_SPAN
    assert before_ns <= request.start_ns == turn.start_ns
    assert request.start_ns < request.end_ns < turn.end_ns <= after_ns
    assert {request.status, turn.status} == {"unset"}
    assert (request.links, request.events, turn.links, turn.events) == ((), (), (), ())
    (call,) = scene.calls()
    assert call.attributes.pop("gen_ai.response.id").startswith("resp_")
    assert call.attributes == {
        **of_turn(scene, done["id"]),
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "offline",
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 3,
    }
    assert (call.name, call.kind, call.parent_span_id) == ("chat offline", "client", turn.span_id)
    assert turn.start_ns - 1_000_000 <= call.start_ns <= call.end_ns <= turn.end_ns
    heard = {each.get("method") for each in scene.client.received}
    assert "rawResponse/completed" not in heard, "no client asked for it"


async def test_every_request_to_the_model_is_a_span(scene: Scene) -> None:
    await scene.turn("/run echo hi", "accept")
    await scene.becomes(
        TURN_START, TURN, "    core-server: execute_tool shell [internal]", COMMAND_APPROVAL
    )
    first, second = scene.calls()
    assert first.end_ns <= second.start_ns


async def test_who_asks_for_raw_events_hears_them_and_still_has_spans(stage: Stage) -> None:
    async with stage.scene(experimental=True) as scene:
        started = await scene.request("thread/start", {"experimentalRawEvents": True})
        scene.thread = started["thread"]["id"]
        await scene.turn("hello")
        (heard,) = [
            each["params"]
            for each in scene.client.received
            if each.get("method") == "rawResponse/completed"
        ]
        await stage.collector.wait_for(lambda _: len(scene.calls()) == 1)
        (call,) = scene.calls()
    assert heard["unasked"] is False
    assert heard["startedAtMs"] * 1_000_000 == call.start_ns
    assert heard["responseId"] == call.attributes["gen_ai.response.id"]


async def test_two_services_share_one_process(scene: Scene) -> None:
    await scene.turn("hello")
    request, turn = await scene.becomes(TURN_START, TURN)
    assert request.resource.pop("service.version")
    assert request.resource.pop("service.name") == "trace-proxy"
    assert turn.resource.pop("service.name") == "core-server"
    instances = [each.resource.pop("service.instance.id") for each in (request, turn)]
    assert len(set(instances)) == 2
    assert request.resource == turn.resource
    assert (request.scope, turn.scope) == ("trace_proxy", "trace_proxy.gen_ai")
    rpc, agent = request.scope_schema_url, turn.scope_schema_url
    assert rpc == "https://opentelemetry.io/schemas/1.44.0"
    assert agent == "https://opentelemetry.io/schemas/gen-ai-dev/1.42.0-dev"


async def test_a_command_is_a_tool_below_its_turn_and_its_approval_below_that(
    scene: Scene,
) -> None:
    done = await scene.turn("/run echo hi", "accept")
    _, turn, tool, approval = await scene.becomes(
        TURN_START, TURN, "    core-server: execute_tool shell [internal]", COMMAND_APPROVAL
    )
    items = [each["params"] for each in scene.client.received if "item/" in each.get("method", "")]
    item = next(
        each["item"]
        for each in reversed(items)
        if each.get("item", {}).get("type") == "commandExecution"
    )
    assert tool.attributes == {
        **of_turn(scene, done["id"]),
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "shell",
        "gen_ai.tool.type": "function",
        "gen_ai.tool.call.id": item["id"],
        "process.exit.code": 0,
        "trace_proxy.tool.status": "completed",
    }
    assert tool.start_ns == item["startedAtMs"] * 1_000_000
    assert tool.end_ns == item["completedAtMs"] * 1_000_000
    assert approval.attributes.pop("trace_proxy.approval.answered_by").isdigit()
    wait_s = approval.attributes.pop("trace_proxy.approval.wait")
    assert wait_s == pytest.approx((approval.end_ns - approval.start_ns) / 1e9)
    assert approval.attributes.pop("jsonrpc.request.id").isdigit()
    assert approval.attributes == {
        "rpc.system.name": "jsonrpc",
        "rpc.method": "item/commandExecution/requestApproval",
        "gen_ai.conversation.id": scene.thread,
        "trace_proxy.core.id": 0,
        "trace_proxy.approval.decision": "accept",
        "trace_proxy.approval.asked": 1,
    }
    assert turn.start_ns < approval.start_ns < approval.end_ns < turn.end_ns


async def test_a_file_change_is_a_tool_too(scene: Scene) -> None:
    await scene.turn("/write a.txt some text", "accept")
    *_, tool, approval = await scene.becomes(
        TURN_START,
        TURN,
        "    core-server: execute_tool apply_patch [internal]",
        "      client: approval file change [client]",
    )
    assert tool.attributes["trace_proxy.tool.status"] == "completed"
    assert approval.attributes["trace_proxy.approval.decision"] == "accept"


async def test_a_declined_command_says_so(scene: Scene) -> None:
    await scene.turn("/run echo hi", "decline")
    *_, tool, approval = await scene.becomes(
        TURN_START, TURN, "    core-server: execute_tool shell [internal] ERROR", COMMAND_APPROVAL
    )
    assert tool.attributes["trace_proxy.tool.status"] == "declined"
    assert tool.attributes["error.type"] == "declined"
    assert "process.exit.code" not in tool.attributes
    assert approval.attributes["trace_proxy.approval.decision"] == "decline"


async def test_a_failed_command_is_an_error_with_its_exit_code(scene: Scene) -> None:
    done = await scene.turn("/run false", "accept")
    _, turn, tool, _ = await scene.becomes(
        TURN_START, TURN, "    core-server: execute_tool shell [internal] ERROR", COMMAND_APPROVAL
    )
    assert tool.attributes["process.exit.code"] == 1
    assert tool.attributes["error.type"] == "exit_code"
    assert tool.message == "The command failed."
    assert (done["status"], turn.status) == ("completed", "unset")


async def test_a_failed_turn_is_an_error_without_its_text(scene: Scene) -> None:
    done = await scene.turn("/fail for a secret reason")
    request, turn = await scene.becomes(TURN_START, f"{TURN} ERROR")
    assert done["error"]["message"] == "for a secret reason"
    assert turn.message == "The turn failed."
    assert turn.attributes["trace_proxy.turn.status"] == "failed"
    assert turn.attributes["error.type"] == done["error"]["codexErrorInfo"] == "other"
    assert request.status == "unset"


async def test_an_interrupted_turn_is_no_error_and_the_interrupt_links_to_it(
    scene: Scene,
) -> None:
    turn_id = await scene.begin_turn("/slow 30")
    await scene.client.wait_for("item/agentMessage/delta")
    await scene.request("turn/interrupt", {"threadId": scene.thread, "turnId": turn_id})
    await scene.end_turn()
    _, turn, interrupt = await scene.becomes(
        TURN_START, TURN, "trace-proxy: turn/interrupt [server]"
    )
    assert only(turn, "trace_proxy.turn.status") == {"trace_proxy.turn.status": "interrupted"}
    assert "error.type" not in turn.attributes
    assert "trace_proxy.ended_by" not in turn.attributes
    assert interrupt.links == link_to(turn)
    assert interrupt.attributes["trace_proxy.turn.id"] == turn_id


async def test_a_steer_links_to_the_turn_that_it_joins(scene: Scene) -> None:
    turn_id = await scene.begin_turn("/slow 30")
    await scene.client.wait_for("item/agentMessage/delta")
    text = [{"type": "text", "text": "more"}]
    params = {"threadId": scene.thread, "expectedTurnId": turn_id, "input": text}
    await scene.request("turn/steer", params)
    await scene.end_turn()
    _, turn, steer = await scene.becomes(TURN_START, TURN, "trace-proxy: turn/steer [server]")
    assert steer.links == link_to(turn)
    assert steer.parent_span_id == PARENT_SPAN
    assert steer.attributes["trace_proxy.turn.id"] == turn_id


async def test_a_second_turn_start_that_joins_a_turn_links_to_it(scene: Scene) -> None:
    turn_id = await scene.begin_turn("/slow 30")
    await scene.client.wait_for("item/agentMessage/delta")
    assert await scene.begin_turn("more") == turn_id
    await scene.end_turn()
    _, turn, second = await scene.becomes(TURN_START, TURN, TURN_START)
    assert second.links == link_to(turn)


async def test_a_resume_while_a_turn_runs_links_to_it(stage: Stage, scene: Scene) -> None:
    turn_id = await scene.begin_turn("/slow 30")
    async with stage.scene() as late:
        await late.request("thread/resume", {"threadId": scene.thread})
        (resume,) = await late.becomes("trace-proxy: thread/resume [server]")
        await scene.request("turn/interrupt", {"threadId": scene.thread, "turnId": turn_id})
        await scene.end_turn()
    _, turn, _ = await scene.becomes(TURN_START, TURN, "trace-proxy: turn/interrupt [server]")
    assert resume.links == link_to(turn)
    assert resume.trace_id != turn.trace_id


async def test_a_resume_of_an_idle_thread_links_to_nothing(scene: Scene) -> None:
    thread = await scene.client.thread()
    await scene.request("thread/resume", {"threadId": thread})
    (resume,) = await scene.becomes("trace-proxy: thread/resume [server]")
    assert resume.links == ()
    assert resume.attributes["trace_proxy.thread.id"] == thread
    assert "trace_proxy.turn.id" not in resume.attributes


async def test_a_turn_that_another_request_began_is_its_child(scene: Scene) -> None:
    scene.thread = await scene.client.thread()
    await scene.request("thread/shellCommand", {"threadId": scene.thread, "command": "true"})
    await scene.end_turn()
    await scene.request("thread/compact/start", {"threadId": scene.thread})
    await scene.end_turn()
    await scene.becomes(
        "trace-proxy: thread/shellCommand [server]",
        TURN,
        "    core-server: execute_tool shell [internal]",
        "trace-proxy: thread/compact/start [server]",
        TURN,
    )


async def test_a_refused_turn_is_not_the_parent_of_the_next(scene: Scene) -> None:
    thread = await scene.client.thread()
    with pytest.raises(RpcError):
        await scene.request("turn/start", {"threadId": thread, "input": 5})
    await scene.client.request("thread/shellCommand", {"threadId": thread, "command": "true"})
    await scene.client.wait_for("turn/completed")
    (refused,) = await scene.becomes(f"{TURN_START} ERROR")
    assert refused.attributes["error.type"] == "-32602"


@pytest.mark.parametrize(
    ("method", "params", "code", "text"),
    [
        ("thread/read", {"threadId": "01a20719"}, -32600, "The request is not valid."),
        ("turn/start", {"threadId": 5}, -32602, "The params are not valid."),
        ("initialize", {}, -32600, "The request is not valid."),
    ],
)
async def test_an_error_answer_is_an_error_span_with_a_canned_sentence(
    scene: Scene, method: str, params: object, code: int, text: str
) -> None:
    with pytest.raises(RpcError) as caught:
        await scene.request(method, params)
    (span,) = await scene.becomes(f"trace-proxy: {method} [server] ERROR")
    assert caught.value.code == code
    assert span.message == text
    assert span.attributes["error.type"] == str(code)
    assert span.attributes["rpc.response.status_code"] == str(code)


async def test_an_unknown_method_has_a_bounded_name(scene: Scene) -> None:
    method = "no/such/" + "x" * 100
    with pytest.raises(RpcError) as caught:
        await scene.request(method)
    (span,) = await scene.becomes("trace-proxy: jsonrpc [server] ERROR")
    assert caught.value.code == -32601
    assert span.message == "The method is not known."
    assert only(span, "rpc.method") == {
        "rpc.method": "_OTHER",
        "rpc.method_original": method[:64],
    }


async def test_a_request_before_initialize_is_seen(stage: Stage) -> None:
    async with stage.scene(initialize=False) as scene:
        with pytest.raises(RpcError):
            await scene.request("model/list", {})
        (span,) = await scene.becomes("trace-proxy: model/list [server] ERROR")
    assert "trace_proxy.client.name" not in span.attributes
    assert "trace_proxy.core.id" not in span.attributes


@pytest.mark.parametrize(
    ("request_id", "shown"),
    [
        (7, "7"),
        ("7", "7"),
        (-5, "-5"),
        ("é" * 60, "é" * 60),
        ("x" * 999, "x" * 64),
        ("a\n", "a\n"),
    ],
    ids=["integer", "string", "negative", "wide", "long", "newline"],
)
async def test_request_ids_are_shown_to_people(
    scene: Scene, request_id: object, shown: str
) -> None:
    request = {"id": request_id, "method": "model/list", "params": {}, "trace": scene.trace}
    await scene.client.send(request)
    await scene.client.answer(request_id)
    (span,) = await scene.becomes("trace-proxy: model/list [server]")
    assert span.attributes["jsonrpc.request.id"] == shown


async def test_an_approval_seen_by_two_names_who_answered(stage: Stage, scene: Scene) -> None:
    await scene.begin_turn("/run true")
    asked = await scene.client.wait(lambda each: "method" in each and "id" in each)
    async with stage.scene() as other:
        await other.client.request("thread/resume", {"threadId": scene.thread})
        await other.decide("accept")
        await scene.end_turn()
    *_, approval = await scene.becomes(
        TURN_START, TURN, "    core-server: execute_tool shell [internal]", COMMAND_APPROVAL
    )
    await scene.client.send({"id": asked["id"], "result": {"decision": "decline"}})
    assert approval.attributes["trace_proxy.approval.asked"] == 2
    assert approval.attributes["trace_proxy.approval.decision"] == "accept"
    mine = scene.spans()[0].attributes["trace_proxy.connection.id"]
    assert approval.attributes["trace_proxy.approval.answered_by"] == str(int(mine) + 1)


async def test_an_approval_that_its_core_settles_itself_is_resolved(scene: Scene) -> None:
    turn_id = await scene.begin_turn("/run true")
    await scene.client.wait(lambda each: "method" in each and "id" in each)
    params = {"threadId": scene.thread, "turnId": turn_id}
    await scene.client.request("turn/interrupt", params)
    await scene.end_turn()
    *_, tool, approval = await scene.becomes(
        TURN_START, TURN, "    core-server: execute_tool shell [internal] ERROR", COMMAND_APPROVAL
    )
    assert approval.attributes["trace_proxy.approval.decision"] == "resolved"
    assert "trace_proxy.approval.answered_by" not in approval.attributes
    assert tool.attributes["trace_proxy.tool.status"] in {"declined", "interrupted", "failed"}


async def test_the_turn_goes_on_when_its_client_is_gone(stage: Stage) -> None:
    async with stage.scene() as scene:
        await scene.begin_turn("/slow 0.5")
    _, turn = await scene.becomes(TURN_START, TURN)
    assert turn.attributes["trace_proxy.turn.status"] == "completed"


async def test_many_turns_at_once_keep_their_own_spans(stage: Stage) -> None:
    async with stage.scene() as scene:
        threads = [await scene.client.thread() for _ in range(8)]
        for thread in threads:
            params = turn_params(thread, f"/tokens {threads.index(thread) + 1}")
            await scene.begin("turn/start", params)
        for _ in threads:
            await scene.end_turn()
        spans = await scene.becomes(*[TURN_START, TURN] * 8)
    counts = {
        span.attributes["gen_ai.conversation.id"]: span.attributes["trace_proxy.turn.deltas"]
        for span in spans
        if span.name.startswith("invoke_agent")
    }
    assert counts == {thread: number for number, thread in enumerate(threads, 1)}
