"""Which protocol is spoken, and what is read of each: never more than it says, never a raise."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trace_proxy.protocol import acp, lsp, mcp, methods
from trace_proxy.protocol.program import (
    CLIENT_CHARS,
    Program,
    agent_of,
    client_of,
    program_of,
)

VERSION = "io.modelcontextprotocol/protocolVersion"


def dumped(value: object) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    ("params", "program"),
    [
        ({"protocolVersion": 1, "clientCapabilities": {}}, Program.ACP),
        ({"protocolVersion": 2}, Program.ACP),
        ({"protocolVersion": "2025-11-25", "capabilities": {}}, Program.MCP),
        ({"protocolVersion": "2024-11-05"}, Program.MCP),
        ({"processId": None, "rootUri": None, "capabilities": {}}, Program.LSP),
        ({"processId": 5}, Program.LSP),
        ({"rootUri": "file:///x"}, Program.LSP),
        ({"clientInfo": {"name": "tui", "version": "1"}}, Program.CODEX),
        ({"protocolVersion": "DRAFT"}, Program.CODEX),
        ({"protocolVersion": None, "processId": 1}, Program.LSP),
        ({"protocolVersion": 1.5}, Program.CODEX),
        ({}, Program.CODEX),
        ([], Program.CODEX),
        ("x", Program.CODEX),
        (None, Program.CODEX),
    ],
)
def test_initialize_tells_what_is_spoken(params: object, program: Program) -> None:
    assert program_of("initialize", dumped(params)) is program


def test_without_params_initialize_is_the_app_servers() -> None:
    assert program_of("initialize", None) is Program.CODEX


def test_a_request_that_names_its_mcp_version_needs_no_initialize() -> None:
    meta = {"_meta": {VERSION: "2026-07-28"}}
    assert program_of("tools/list", dumped(meta)) is Program.MCP
    assert program_of("tools/list", dumped({})) is None
    assert program_of("thread/start", None) is None


@pytest.mark.parametrize(
    ("params", "client"),
    [
        ({"clientInfo": {"name": "jaeger", "version": "2.21"}}, ("jaeger", "2.21")),
        ({"clientInfo": {"name": "n"}}, ("n", "")),
        ({"clientInfo": {"name": "n" * 5000, "version": "v"}}, ("n" * CLIENT_CHARS, "v")),
        ({"clientInfo": None}, ("", "")),
        ({"clientInfo": {"name": 5}}, ("", "")),
        ([], ("", "")),
    ],
)
def test_a_client_says_its_name(params: object, client: tuple[str, str]) -> None:
    assert client_of(dumped(params)) == client
    assert client_of(None) == ("", "")


@pytest.mark.parametrize(
    ("info", "name"),
    [
        ({"name": "n", "title": "A title", "version": "1"}, "A title"),
        ({"name": "n", "title": None}, "n"),
        ({"name": "n"}, "n"),
        (None, ""),
        (5, ""),
    ],
)
def test_an_agent_is_called_by_its_title(info: object, name: str) -> None:
    assert agent_of(dumped({"agentInfo": info})) == name


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        ({"outcome": {"outcome": "selected", "optionId": "a"}}, "allow_once"),
        ({"outcome": {"outcome": "selected", "optionId": "r"}}, "reject_always"),
        ({"outcome": {"outcome": "selected", "optionId": "odd"}}, "other"),
        ({"outcome": {"outcome": "selected", "optionId": "nobody's"}}, "other"),
        ({"outcome": {"outcome": "cancelled"}}, "cancelled"),
        ({"outcome": {"outcome": "rm -rf"}}, "other"),
        ({}, "other"),
        ([], "other"),
    ],
)
def test_a_permission_is_answered_in_bounded_words(answer: object, word: str) -> None:
    options = [
        {"optionId": "a", "kind": "allow_once", "name": "Yes"},
        {"optionId": "r", "kind": "reject_always", "name": "Never"},
        {"optionId": "odd", "kind": "CANARY", "name": "?"},
    ]
    params = dumped({"sessionId": "s", "toolCall": {"toolCallId": "t"}, "options": options})

    assert acp.outcome_of(params, dumped(answer)) == word
    assert acp.outcome_of(params, None) == "error"


def test_usage_of_an_unknown_shape_costs_nothing_else() -> None:
    told = acp.prompted(dumped({"stopReason": "end_turn", "usage": {"inputTokens": "many"}}))
    assert (told.stop_reason, told.usage) == ("end_turn", None)


@given(
    st.text(max_size=60).map(str.encode)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=6),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    "sessionId update sessionUpdate toolCallId kind status content text outcome options"
                    " optionId stopReason usage name isError protocolVersion action toolCall _meta".split()
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    ).map(dumped)
)
def test_nothing_that_a_peer_says_raises(raw: bytes) -> None:
    update = acp.update_of(raw)
    if update is not None:
        assert isinstance(acp.text_of(update.update), str)
        assert acp.tool_kind(update.update.kind) in {*acp.TOOL_KINDS, "other"}
    assert acp.outcome_of(raw, raw) in {*acp.OPTION_KINDS, "cancelled", "other"}
    assert mcp.elicited(raw) in {"accept", "decline", "cancel", "other"}
    assert len(mcp.name_of(raw)) <= mcp.NAME_CHARS
    assert mcp.tool_failed(raw) in {True, False}
    assert len(mcp.version_in(raw)) <= 32
    assert isinstance(acp.prompted(raw).stop_reason, str)
    assert acp.session_of(raw) is None or isinstance(acp.session_of(raw), str)
    assert len(client_of(raw)) == 2
    assert len(agent_of(raw)) <= CLIENT_CHARS


@pytest.mark.parametrize("table", [acp, mcp, lsp])
def test_a_protocol_knows_its_own_methods(table: Any) -> None:
    assert "initialize" in table.METHODS
    assert "initialize" in methods.KNOWN
    new_work: frozenset[str] = getattr(table, "NEW_WORK", frozenset())
    assert new_work <= table.METHODS


@pytest.mark.parametrize("request_id", [b"5", b'"a\\u0041"', b"-1"])
def test_cancellations_name_the_request_exactly(request_id: bytes) -> None:
    assert b'"requestId":%b,' % request_id in mcp.cancelled(request_id)
    assert b'"id":%b}' % request_id in lsp.cancelled(request_id)
    for line in (mcp.cancelled(request_id), lsp.cancelled(request_id), acp.cancel('s"1')):
        assert "id" not in json.loads(line)
