"""Whose child a request is, and what context its core, its commands and its model get."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.collector import CollectedSpan
from tests.e2e.proxy import Client, Json, fake_core, turn_params
from tests.e2e.traces import Stage, in_order, new_trace_id, traced, traceparent
from tests.responses_api import ResponsesApi

TRACES = {
    name: f"{number:x}" * 32
    for number, name in enumerate(("message", "traceparent", "single", "multi", "env"), 1)
}
SPANS = {name: trace_id[:16] for name, trace_id in TRACES.items()}


def w3c(name: str, flags: str = "01") -> str:
    return f"00-{TRACES[name]}-{SPANS[name]}-{flags}"


MESSAGE = {"traceparent": w3c("message"), "tracestate": "vendor=message"}
TRACEPARENT = {"traceparent": w3c("traceparent"), "tracestate": "vendor=handshake"}
SINGLE = {"b3": f"{TRACES['single']}-{SPANS['single']}-1"}
MULTI = {
    "x-b3-traceid": TRACES["multi"],
    "x-b3-spanid": SPANS["multi"],
    "x-b3-sampled": "1",
}
ENV = {"TRACEPARENT": w3c("env"), "TRACESTATE": "vendor=env"}


async def one_request(
    stage: Stage, headers: dict[str, str], trace: object = None
) -> CollectedSpan:
    """Send `model/list` over a new connection; returns its span."""
    async with stage.proxy.client(headers=headers) as client:
        more = {} if trace is None else {"trace": trace}
        request_id = await client.begin("model/list", {}, **more)
        await client.answer(request_id)
        spans = await stage.collector.wait_for(
            lambda found: any(each.name == "model/list" for each in found)
        )
    (span,) = [each for each in spans if each.name == "model/list"]
    stage.collector.spans.clear()
    return span


def source(span: CollectedSpan) -> object:
    return span.attributes["trace_proxy.context.source"]


def links(*names: str) -> list[tuple[str, str]]:
    return [(TRACES[name], SPANS[name]) for name in names]


def linked(span: CollectedSpan) -> list[tuple[str, str]]:
    return [(link.trace_id, link.span_id) for link in span.links]


async def test_each_level_wins_over_those_below_it(tmp_path: Path) -> None:
    core = fake_core("recorder", str(tmp_path / "lines"))
    everything = {**TRACEPARENT, **SINGLE, **MULTI}
    async with traced(core=core, env=ENV) as stage:
        message = await one_request(stage, everything, MESSAGE)
        handshake = await one_request(stage, everything)
        single = await one_request(stage, {**SINGLE, **MULTI})
        multi = await one_request(stage, MULTI)
        environment = await one_request(stage, {})
    assert [source(each) for each in (message, handshake, single, multi, environment)] == [
        "message",
        "traceparent",
        "b3",
        "b3",
        "env",
    ]
    assert [
        (each.trace_id, each.parent_span_id)
        for each in (message, handshake, single, multi, environment)
    ] == [(TRACES[name], SPANS[name]) for name in TRACES]
    assert linked(message) == links("traceparent", "single", "multi")
    assert linked(handshake) == links("single", "multi")
    assert linked(single) == links("multi")
    assert linked(multi) == linked(environment) == []
    assert [each.trace_state for each in (message, handshake, environment)] == [
        "vendor=message",
        "vendor=handshake",
        "vendor=env",
    ]


async def test_without_any_context_a_request_is_a_new_root(tmp_path: Path) -> None:
    async with traced(core=fake_core("recorder", str(tmp_path / "lines"))) as stage:
        first, second = await one_request(stage, {}), await one_request(stage, {})
    assert source(first) == source(second) == "generated"
    assert first.parent_span_id == second.parent_span_id == ""
    assert first.trace_id != second.trace_id


BAD = "00-" + "0" * 32 + "-1111111111111111-01"


@pytest.mark.parametrize(
    ("headers", "trace", "wins", "rejected"),
    [
        (TRACEPARENT, {"traceparent": 5}, "traceparent", {"message"}),
        (TRACEPARENT, {"traceparent": "garbage"}, "traceparent", {"message"}),
        (TRACEPARENT, [], "traceparent", {"message"}),
        ({"traceparent": BAD, **SINGLE}, None, "b3", {"traceparent"}),
        ({"b3": "0" * 32 + "-" + "1" * 16, **MULTI}, None, "b3", {"b3"}),
        ({"traceparent": BAD, "b3": "nonsense"}, {"traceparent": BAD}, "env", None),
    ],
    ids=["wrong type", "garbage", "no object", "traceparent", "b3", "all"],
)
async def test_what_is_malformed_is_counted_and_the_next_level_wins(
    tmp_path: Path, headers: dict[str, str], trace: object, wins: str, rejected: set[str] | None
) -> None:
    async with traced(core=fake_core("recorder", str(tmp_path / "lines")), env=ENV) as stage:
        span = await one_request(stage, headers, trace)
        metrics = await stage.metrics()
        warned = stage.proxy.log("context.rejected")
    counted = {
        name.partition('source="')[2].partition('"')[0]: value
        for name, value in metrics.items()
        if name.startswith("trace_proxy_context_rejected_total")
    }
    assert source(span) == wins
    assert span.status == "unset"
    assert counted == dict.fromkeys(rejected or {"message", "traceparent", "b3"}, 1)
    assert len(warned) == 1


async def test_a_bad_environment_is_counted_once_and_a_root_is_made(tmp_path: Path) -> None:
    core = fake_core("recorder", str(tmp_path / "lines"))
    async with traced(core=core, env={"TRACEPARENT": BAD}) as stage:
        spans = [await one_request(stage, {}) for _ in range(2)]
        metrics = await stage.metrics()
    assert {source(each) for each in spans} == {"generated"}
    rejected = {name: value for name, value in metrics.items() if "context_rejected" in name}
    assert list(rejected.values()) == [1]
    assert 'source="env"' in next(iter(rejected))


async def test_at_a_public_edge_what_clients_send_is_only_linked(tmp_path: Path) -> None:
    core = fake_core("recorder", str(tmp_path / "lines"))
    unsampled = {"traceparent": w3c("message", "00")}
    async with traced("--trust-context", "link", core=core) as stage:
        message = await one_request(stage, TRACEPARENT, unsampled)
        handshake = await one_request(stage, SINGLE)
    assert source(message) == source(handshake) == "generated"
    assert linked(message) == links("message", "traceparent")
    assert linked(handshake) == links("single")
    assert message.parent_span_id == handshake.parent_span_id == ""
    assert not {message.trace_id, handshake.trace_id} & set(TRACES.values())


def handed_on(path: Path) -> dict[str, Json]:
    """The `trace` member of each request that the core got, by method."""
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    return {each["method"]: each["trace"] for each in lines if "trace" in each}


async def test_the_core_gets_the_context_of_the_span_and_of_the_turn(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    async with traced(core=fake_core("recorder", str(path))) as stage:
        async with stage.proxy.client() as client:
            await client.request("model/list", {}, trace=MESSAGE)
            await client.request("turn/start", turn_params("thread", "hello"), trace=MESSAGE)
            await client.request("thread/read", {"threadId": "thread"})
        spans = await stage.collector.wait_for(lambda found: len(found) >= 4)
    given = handed_on(path)
    by_name = {span.name: span for span in spans}
    read = by_name["thread/read"]
    assert given["model/list"] == {
        "traceparent": f"00-{TRACES['message']}-{by_name['model/list'].span_id}-01",
        "tracestate": "vendor=message",
    }
    assert given["thread/read"] == {"traceparent": f"00-{read.trace_id}-{read.span_id}-03"}
    _, trace_id, span_id, flags = given["turn/start"]["traceparent"].split("-")
    assert (trace_id, flags) == (TRACES["message"], "01")
    assert span_id not in {span.span_id for span in spans}  # the turn's, which still runs


async def test_what_is_not_sampled_is_handed_on_so_and_not_exported(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    async with (
        traced(core=fake_core("recorder", str(path))) as stage,
        stage.proxy.client() as client,
    ):
        await client.request("model/list", {}, trace={"traceparent": w3c("message", "00")})
        await client.request("thread/read", {"threadId": "x"})
        spans = await stage.collector.wait_for(
            lambda found: any(each.name == "thread/read" for each in found)
        )
    assert "model/list" not in {span.name for span in spans}
    assert handed_on(path)["model/list"]["traceparent"].startswith(f"00-{TRACES['message']}-")
    assert handed_on(path)["model/list"]["traceparent"].endswith("-00")


async def finished_turn(stage: Stage, client: Client) -> tuple[CollectedSpan, CollectedSpan]:
    """The request and the turn of the message's trace."""

    def ours(found: Any) -> list[CollectedSpan]:
        return [each for each in found if each.trace_id == TRACES["message"]]

    await client.wait_for("turn/completed")
    spans = await stage.collector.wait_for(
        lambda found: any(each.name.startswith("invoke_agent") for each in ours(found))
    )
    request, turn, *_ = in_order(ours(spans))
    return request, turn


async def test_commands_of_a_turn_get_the_turn_as_their_parent() -> None:
    async with traced() as stage, stage.proxy.client() as client:
        thread = await client.thread()
        params = turn_params(thread, "/run printenv TRACEPARENT TRACESTATE")
        await client.request("turn/start", params, trace=MESSAGE)
        asked = await client.wait(lambda each: "method" in each and "id" in each)
        await client.send({"id": asked["id"], "result": {"decision": "accept"}})
        item = await client.wait(
            lambda each: (
                each.get("method") == "item/completed"
                and each["params"]["item"]["type"] == "commandExecution"
            )
        )
        _, turn = await finished_turn(stage, client)
    output = item["params"]["item"]["aggregatedOutput"]
    assert f"00-{turn.trace_id}-{turn.span_id}-01\nvendor=message\n" in output


async def test_the_model_is_asked_in_the_trace_of_the_turn() -> None:
    async with ResponsesApi() as api:
        env = {
            "CORE_SERVER_ENGINE": "openai",
            "OPENAI_BASE_URL": api.url,
            "OPENAI_API_KEY": "none",
        }
        async with traced(env=env) as stage, stage.proxy.client() as client:
            thread = await client.thread()
            await client.request("turn/start", turn_params(thread, "text: hi"), trace=MESSAGE)
            request, turn = await finished_turn(stage, client)
            seen = await api.nth_seen(1)
    assert seen.headers["traceparent"] == f"00-{turn.trace_id}-{turn.span_id}-01"
    assert seen.headers["tracestate"] == "vendor=message"
    assert turn.parent_span_id == request.span_id


async def test_a_context_in_meta_counts_where_the_message_has_no_trace() -> None:
    async with traced() as stage, stage.scene() as scene:
        meta = {"traceparent": traceparent(scene.trace_id)}
        await scene.client.request("thread/loaded/list", {"_meta": meta})
        other = {"traceparent": traceparent(new_trace_id())}
        await scene.client.request("model/list", {"_meta": other}, trace=meta)
        await scene.becomes(
            "trace-proxy: thread/loaded/list [server]", "trace-proxy: model/list [server]"
        )
