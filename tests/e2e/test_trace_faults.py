"""What traces say when something goes wrong: a client or core is lost, load, drain."""

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest

from tests.collector import Collector
from tests.e2e.processes import kill
from tests.e2e.proxy import RpcError, fake_core, turn_params
from tests.e2e.traces import Scene, Stage, traced

TURN_START = "trace-proxy: turn/start [server]"
TURN = "  core-server: invoke_agent core-server [internal]"
WAITING = "account/read"
"""What the fake core never answers."""


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    """One that outlives the proxy: the last spans come at its end."""
    async with Collector() as collector:
        yield collector


@pytest.fixture
async def stage(collector: Collector) -> AsyncIterator[Stage]:
    async with traced(core=fake_core("fake"), collector=collector) as stage:
        yield stage


async def refused(scene: Scene, method: str, params: object = None) -> RpcError:
    with pytest.raises(RpcError) as caught:
        await scene.request(method, params)
    return caught.value


async def in_flight(stage: Stage, count: int) -> None:
    await stage.metric_becomes("trace_proxy_requests_in_flight", count)


async def test_a_connection_that_is_lost_ends_its_requests_with_an_error(stage: Stage) -> None:
    async with stage.scene() as scene:
        await scene.begin(WAITING)
        await in_flight(stage, 1)
    (span,) = await scene.becomes(f"trace-proxy: {WAITING} [server] ERROR")
    assert span.message == "The connection was lost before the answer."
    assert span.attributes["error.type"] == "connection_lost"
    assert "rpc.response.status_code" not in span.attributes
    assert "trace_proxy.ended_by" not in span.attributes


async def test_a_core_that_dies_in_mid_turn_ends_the_turn_with_an_error(stage: Stage) -> None:
    async with stage.scene() as scene:
        done = await scene.turn("crash")
        request, turn = await scene.becomes(TURN_START, f"{TURN} ERROR")
    assert done["status"] == turn.attributes["trace_proxy.turn.status"] == "interrupted"
    assert request.status == "unset"
    assert turn.message == "The core died during the turn."
    assert turn.attributes["error.type"] == turn.attributes["trace_proxy.ended_by"] == "core_lost"


async def test_a_core_that_dies_ends_what_it_held(stage: Stage) -> None:
    async with stage.scene() as scene, stage.scene() as other:
        await scene.begin_turn("ask")
        await scene.client.wait(lambda each: "method" in each and "id" in each)
        waiting = await other.begin(WAITING)
        await other.client.begin("turn/start", turn_params(await other.client.thread(), "crash"))
        with pytest.raises(RpcError, match="The core died"):
            await other.client.answer(waiting)
        _, turn, approval = await scene.becomes(
            TURN_START,
            f"{TURN} ERROR",
            "    client: approval command [client] ERROR",
        )
        (span,) = await other.becomes(f"trace-proxy: {WAITING} [server] ERROR")
    assert span.message == "The core died before it answered."
    for each in (turn, approval, span):
        assert each.attributes["trace_proxy.ended_by"] == "core_lost"
    assert approval.attributes["trace_proxy.approval.decision"] == "core_lost"
    assert span.attributes["error.type"] == "-32003"


async def test_a_tool_that_runs_when_its_core_is_killed_is_an_error(collector: Collector) -> None:
    async with traced(collector=collector) as stage, stage.scene() as scene:
        await scene.begin_turn("/run echo begun; sleep 30")
        await scene.decide("accept")
        await scene.client.wait_for("item/commandExecution/outputDelta")
        kill(stage.proxy.core_pid())
        await scene.end_turn()
        _, turn, tool, approval = await scene.becomes(
            TURN_START,
            f"{TURN} ERROR",
            "    core-server: execute_tool shell [internal] ERROR",
            "      client: approval command [client]",
        )
        assert await stage.proxy.logged("core.ready", times=2)
    assert tool.message == "The core died while the tool ran."
    assert tool.attributes["error.type"] == tool.attributes["trace_proxy.ended_by"] == "core_lost"
    assert turn.end_ns == tool.end_ns
    assert approval.attributes["trace_proxy.approval.decision"] == "accept"


async def test_a_shed_request_is_an_error_that_says_so(collector: Collector) -> None:
    bound = ("--max-in-flight-per-connection", "1")
    async with (
        traced(*bound, core=fake_core("fake"), collector=collector) as stage,
        stage.scene() as scene,
    ):
        await scene.client.begin(WAITING)
        await in_flight(stage, 1)
        error = await refused(scene, "model/list", {})
        (span,) = await scene.becomes("trace-proxy: model/list [server] ERROR")
        shed = await stage.metrics()
    assert error.code == -32001
    assert span.message == "The request was shed."
    assert span.attributes["error.type"] == "-32001"
    assert span.attributes["trace_proxy.ended_by"] == "overload"
    assert shed['trace_proxy_requests_shed_total{reason="overloaded"}'] == 1


async def test_work_refused_by_a_drain_says_so_and_the_turn_it_waits_for_does_not(
    stage: Stage,
) -> None:
    async with stage.scene() as scene, stage.scene() as other:
        turn_id = await scene.begin_turn("hold")
        other.thread = scene.thread
        await other.client.request("thread/resume", {"threadId": scene.thread})
        stage.proxy.signal(signal.SIGTERM)
        await stage.proxy.logged("drain.started")
        error = await refused(other, "turn/start", turn_params(scene.thread, "hello"))
        params = {"threadId": scene.thread, "turnId": turn_id}
        await scene.client.request("turn/interrupt", params)
        await scene.client.closed()
    assert await stage.proxy.exit_code() == 0
    assert error.data["reason"] == "draining"
    (span,) = await other.becomes(f"{TURN_START} ERROR")
    _, turn = await scene.becomes(TURN_START, TURN)
    assert span.message == "The proxy was draining."
    assert span.attributes["error.type"] == "-32001"
    assert span.attributes["trace_proxy.ended_by"] == "drain"
    assert turn.attributes["trace_proxy.turn.status"] == "interrupted"
    assert "trace_proxy.ended_by" not in turn.attributes


async def drained(collector: Collector, text: str) -> Scene:
    options = ("--drain-timeout", "0.2")
    async with (
        traced(*options, core=fake_core("fake"), collector=collector) as stage,
        stage.scene() as scene,
    ):
        await scene.begin_turn(text)
        if text != "hang":  # a core that hangs answers nothing
            await scene.begin(WAITING)
            await in_flight(stage, 1)
        stage.proxy.signal(signal.SIGTERM)
        await scene.client.closed()
        assert await stage.proxy.exit_code() == 3
    return scene


async def test_turns_interrupted_and_requests_left_at_the_deadline_name_the_drain(
    collector: Collector,
) -> None:
    scene = await drained(collector, "hold")
    _, turn, request = await scene.becomes(
        TURN_START, TURN, f"trace-proxy: {WAITING} [server] ERROR"
    )
    assert turn.attributes["trace_proxy.turn.status"] == "interrupted"
    assert turn.attributes["trace_proxy.ended_by"] == "drain"
    assert request.attributes["trace_proxy.ended_by"] == "drain"
    assert request.attributes["error.type"] == "connection_lost"
    assert request.message == "The proxy was draining."


async def test_a_turn_that_the_drain_could_not_end_cleanly_is_an_error(
    collector: Collector,
) -> None:
    scene = await drained(collector, "hang")
    _, turn = await scene.becomes(TURN_START, f"{TURN} ERROR")
    assert turn.message == "The drain ended the turn before it was done."
    assert turn.attributes["error.type"] == turn.attributes["trace_proxy.ended_by"] == "drain"


async def test_an_approval_that_its_core_forgets_ends_with_its_turn(stage: Stage) -> None:
    async with stage.scene() as scene:
        turn_id = await scene.begin_turn("ask")
        asked = await scene.client.wait(lambda each: "method" in each and "id" in each)
        params = {"threadId": scene.thread, "turnId": turn_id}
        await scene.client.request("turn/interrupt", params)
        await scene.end_turn()
        resolved = await scene.client.wait_for("serverRequest/resolved")
        *_, approval = await scene.becomes(
            TURN_START, TURN, "    client: approval command [client]"
        )
        await stage.metric_becomes("trace_proxy_approvals_pending", 0)
    assert resolved["params"] == {"threadId": scene.thread, "requestId": asked["id"]}
    assert approval.attributes["trace_proxy.approval.decision"] == "resolved"


async def test_an_approval_answered_with_an_error_is_an_error(stage: Stage) -> None:
    async with stage.scene() as scene:
        await scene.begin_turn("ask")
        asked = await scene.client.wait(lambda each: "method" in each and "id" in each)
        await scene.client.send({"id": asked["id"], "error": {"code": 1, "message": "no"}})
        await scene.end_turn()
        *_, approval = await scene.becomes(
            TURN_START,
            TURN,
            "    client: approval command [client] ERROR",
        )
    assert approval.attributes["trace_proxy.approval.decision"] == "error"
    assert approval.message == "The request got no usable answer."


async def test_ten_thousand_method_names_make_one_span_name_and_one_series(
    stage: Stage,
) -> None:
    async with stage.scene() as scene:
        for block in range(100):
            for number in range(100):
                await scene.begin(f"flood/{block}/{number}")
            async with asyncio.timeout(30):
                for _ in range(100):
                    await scene.client.wait(lambda each: "error" in each)
        spans = await stage.collector.wait_for(lambda _: len(scene.spans()) == 10_000, 30)
        metrics = await stage.metrics()
    ours = [span for span in spans if span.trace_id == scene.trace_id]
    assert {span.name for span in ours} == {"jsonrpc"}
    assert {span.attributes["rpc.method"] for span in ours} == {"_OTHER"}
    assert len({span.attributes["rpc.method_original"] for span in ours}) == 10_000
    series = [
        name for name in metrics if name.startswith("rpc_server_call_duration_seconds_count")
    ]
    assert len(series) < 10
    counted = metrics[
        'rpc_server_call_duration_seconds_count{error_type="-32601",rpc_method="_OTHER"}'
    ]
    assert counted == 10_000
