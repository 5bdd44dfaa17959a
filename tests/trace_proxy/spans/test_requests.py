"""Spans of requests: names, parents, links and attributes as the table has them."""

import pytest

from tests.trace_proxy.recording import Json, Proxy
from trace_proxy.context.span_record import (
    STILL_OPEN,
    Kind,
    Service,
    SpanContext,
    SpanRecord,
)
from trace_proxy.context.trace_context import (
    Extracted,
    Handshake,
    RemoteContext,
    Sampling,
    Source,
    Trust,
    inherit,
)
from trace_proxy.state.connection import Peer

PARENT = SpanContext(0xABC, 0xDEF, 1, "v=1", remote=True)
OTHER = SpanContext(0x123, 0x456, 1)


def attributes(span: SpanRecord) -> dict[str, Json]:
    """All of them, whether kept for one span or shared by many."""
    return {**span.shared, **span.attributes}


def ask(proxy: Proxy, method: str, **more: Json) -> SpanRecord:
    """The span of one request."""
    client = proxy.client()
    client.request(7, method, **more)
    proxy.core.answer(proxy.core.got()[0]["id"], {})
    (span,) = proxy.spans()
    return span


def test_a_request_is_a_server_span_from_its_parsing_to_its_answer() -> None:
    proxy = Proxy().up()
    span = ask(proxy, "model/list")
    assert span == SpanRecord(
        service=Service.PROXY,
        name="model/list",
        kind=Kind.SERVER,
        context=span.context,
        parent=None,
        start_ns=proxy.now_ns - 1_000_000,
        end_ns=proxy.now_ns,
        attributes=span.attributes,
        shared=span.shared,
    )
    assert attributes(span) == {
        "rpc.system.name": "jsonrpc",
        "rpc.method": "model/list",
        "jsonrpc.request.id": "7",
        "network.transport": "tcp",
        "network.protocol.name": "websocket",
        "network.peer.address": "127.0.0.1",
        "network.peer.port": 5000,
        "trace_proxy.connection.id": "0",
        "trace_proxy.core.id": 0,
        "trace_proxy.client.name": "client",
        "trace_proxy.client.version": "1",
        "trace_proxy.context.source": "generated",
    }


def test_an_unknown_method_does_not_name_a_span() -> None:
    span = ask(Proxy().up(), "x" * 100)
    assert span.name == "jsonrpc"
    assert attributes(span)["rpc.method"] == "_OTHER"
    assert attributes(span)["rpc.method_original"] == "x" * 64


def test_a_messages_trace_wins_and_the_handshakes_is_linked() -> None:
    proxy = Proxy().up()
    handshake = Handshake(Source.B3, RemoteContext(OTHER, Sampling.YES), (), ())
    client = proxy.connect(inherit(handshake, Extracted(), Trust.PARENT))
    info = {"clientInfo": {"name": "n", "version": "1"}}
    client.request(1, "initialize", info)
    trace = {"traceparent": f"00-{0xABC:032x}-{0xDEF:016x}-01", "tracestate": "v=1"}
    client.request(2, "model/list", trace=trace)
    client.request(3, "model/list", trace={"traceparent": "garbage"})
    asked = proxy.core.got()
    for each in asked:
        proxy.core.answer(each["id"], {})
    inherited, message, fallen_back = proxy.spans()
    assert (inherited.parent, attributes(inherited)["trace_proxy.context.source"]) == (OTHER, "b3")
    assert (message.parent, message.links) == (PARENT, (OTHER,))
    assert attributes(message)["trace_proxy.context.source"] == "message"
    assert fallen_back.parent == OTHER
    assert len(proxy.effects.rejected) == 1
    ours = message.context
    assert asked[0]["trace"] == {
        "traceparent": f"00-{ours.trace_id:032x}-{ours.span_id:016x}-{ours.flags:02x}",
        "tracestate": "v=1",
    }


def test_not_sampled_from_outside_leaves_no_span_and_is_handed_on() -> None:
    proxy = Proxy().up()
    client = proxy.client()
    trace = {"traceparent": f"00-{0xABC:032x}-{0xDEF:016x}-00"}
    client.request(1, "model/list", trace=trace)
    (asked,) = proxy.core.got()
    proxy.core.answer(asked["id"], {})
    assert proxy.spans() == []
    assert asked["trace"]["traceparent"].endswith("-00")


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (-32600, "The request is not valid."),
        (-32601, "The method is not known."),
        (-32001, "The request was shed."),
        (5, "The request was answered with an error."),
    ],
)
def test_an_error_is_its_code_and_a_sentence_of_ours(code: int, sentence: str) -> None:
    proxy = Proxy().up()
    client = proxy.client()
    client.request(1, "model/list")
    proxy.core.fail(proxy.core.got()[0]["id"], code, "CANARY")
    (span,) = proxy.spans()
    assert span.error == sentence
    assert attributes(span)["error.type"] == str(code)
    assert attributes(span)["rpc.response.status_code"] == str(code)
    assert "CANARY" not in repr(span)


@pytest.mark.parametrize(
    ("request_id", "text"),
    [
        ("a\u00e9", "a\u00e9"),
        (-5, "-5"),
        ("x" * 100, "x" * 64),
        ("\u00e9" * 1_000, "\\u00e9" * 10 + "\\u00"),
        ("\x01", "\x01"),
    ],
)
def test_a_request_id_is_for_people(request_id: Json, text: str) -> None:
    proxy = Proxy().up()
    client = proxy.client()
    client.request(request_id, "model/list")
    proxy.core.answer(proxy.core.got()[0]["id"], {})
    assert attributes(proxy.spans()[0])["jsonrpc.request.id"] == text


def test_ids_that_others_choose_are_cut() -> None:
    proxy = Proxy().up()
    client = proxy.client()
    client.request(1, "thread/read", {"threadId": "t" * 10_000})
    proxy.core.answer(proxy.core.got()[0]["id"], {})
    assert attributes(proxy.spans()[0])["trace_proxy.thread.id"] == "t" * 128
    long = {"clientInfo": {"name": "n" * 1_000, "version": "v" * 1_000}}
    other = proxy.connect()
    other.request(1, "initialize", long)
    said = attributes(proxy.spans()[0])
    assert said["trace_proxy.client.name"] == "n" * 256
    assert said["trace_proxy.client.version"] == "v" * 256


def test_only_what_starts_a_turn_is_an_agents() -> None:
    proxy = Proxy().up()
    client = proxy.client()
    proxy.thread(client)
    for method in ("turn/start", "turn/steer", "turn/interrupt", "thread/read", "thread/resume"):
        client.request(1, method, {"threadId": "t"})
        proxy.core.answer(proxy.core.got()[0]["id"], {"thread": {"id": "t"}})
        (span,) = proxy.spans()
        named = {key: value for key, value in attributes(span).items() if value == "t"}
        key = "gen_ai.conversation.id" if method == "turn/start" else "trace_proxy.thread.id"
        assert named == {key: "t"}
        assert any(each.startswith("gen_ai.") for each in attributes(span)) is (
            method == "turn/start"
        )


def test_what_we_answer_ourselves_ends_when_it_is_exported() -> None:
    proxy = Proxy().up()
    client = proxy.client()
    client.request(1, "thread/unsubscribe", {"threadId": "nowhere"})
    client.request(2, "initialize", {})
    assert [each.end_ns for each in proxy.spans()] == [STILL_OPEN, STILL_OPEN]


def test_a_strict_client_says_its_version_and_a_socket_where_it_is() -> None:
    proxy = Proxy().up()
    strict = proxy.client(strict=True)
    strict.request(1, "model/list", jsonrpc="2.0")
    proxy.core.answer(proxy.core.got()[0]["id"], {})
    assert attributes(proxy.spans()[0])["jsonrpc.protocol.version"] == "2.0"
    peer = Peer("tcp", "127.0.0.1", 5000, server_address="127.0.0.2", server_port=4500)
    here = proxy.hub.opened(peer, proxy.connect().connection.context)
    proxy.hub.client_message(here, b'{"id":1,"method":"model/list"}', proxy.tick())
    said = attributes(proxy.spans()[0])
    assert (said["server.address"], said["server.port"]) == ("127.0.0.2", 4500)
    assert "jsonrpc.protocol.version" not in said


def test_a_pipe_has_no_peer() -> None:
    proxy = Proxy().up()
    client = proxy.connect()
    piped = proxy.hub.opened(Peer("pipe", websocket=False), client.connection.context)
    proxy.hub.client_message(piped, b'{"id":1,"method":"model/list"}', proxy.tick())
    (span,) = proxy.spans()
    assert [each for each in attributes(span) if each.startswith("network.")] == [
        "network.transport"
    ]
    assert span.error == "The request is not valid."
