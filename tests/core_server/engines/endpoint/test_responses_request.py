import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_server.engines.base import (
    AgentMessage,
    CompactedHistory,
    EngineError,
    HistoryEntry,
    ImagePart,
    Prompt,
    TextPart,
    ToolCall,
    ToolOutput,
    UserMessage,
)
from core_server.engines.endpoint.responses_request import (
    COMPACT_REQUEST,
    request_body,
    trace_headers,
)
from core_server.engines.endpoint.tools import TOOLS, without_nulls

HI = UserMessage((TextPart("hi"),))
HI_ITEM = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}


def test_a_prompt_becomes_a_request() -> None:
    history = (
        UserMessage((TextPart("look"), ImagePart("data:image/png;base64,AA=="))),
        ToolCall("c1", "shell", '{"command":["ls"]}'),
        ToolOutput("c1", "a.txt"),
        AgentMessage("one file"),
        HI,
    )
    prompt = Prompt(
        history,
        model="m",
        effort="low",
        instructions="Be brief.",
        output_schema='{"type":"object"}',
    )

    assert request_body(prompt) == {
        "model": "m",
        "instructions": "Be brief.",
        "reasoning": {"effort": "low", "summary": "auto"},
        "store": False,
        "stream": True,
        "tools": list(TOOLS),
        "text": {
            "format": {
                "type": "json_schema",
                "name": "final_output",
                "strict": True,
                "schema": {"type": "object"},
            }
        },
        "input": [
            {
                "type": "message",
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "look"},
                    {
                        "type": "input_image",
                        "image_url": "data:image/png;base64,AA==",
                        "detail": "auto",
                    },
                ],
            },
            {
                "type": "function_call",
                "call_id": "c1",
                "name": "shell",
                "arguments": '{"command":["ls"]}',
            },
            {"type": "function_call_output", "call_id": "c1", "output": "a.txt"},
            {"type": "message", "role": "assistant", "content": "one file"},
            HI_ITEM,
        ],
    }


def test_what_is_not_wanted_is_not_sent() -> None:
    assert request_body(Prompt((HI,), model="m")) == {
        "model": "m",
        "input": [HI_ITEM],
        "store": False,
        "stream": True,
        "tools": list(TOOLS),
    }


def test_a_compaction_asks_for_a_summary_without_tools() -> None:
    body = request_body(Prompt((HI,), model="m", compact=True, output_schema="{}"))

    asked = {"type": "message", "role": "user", "content": COMPACT_REQUEST}
    assert body == {"model": "m", "input": [HI_ITEM, asked], "store": False, "stream": True}


def test_a_compaction_stands_for_all_before_it() -> None:
    history = (
        HI,
        ToolCall("c", "shell", "{}"),
        CompactedHistory("all of it"),
        ToolOutput("c", "late"),
        HI,
    )

    summary = "Summary of the conversation before this point:\nall of it"
    assert request_body(Prompt(history, model="m"))["input"] == [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": summary}]},
        HI_ITEM,
    ]


def test_a_call_without_an_output_gets_one_and_an_empty_message_a_text() -> None:
    history = (UserMessage(()), ToolCall("c", "shell", "{}"), HI)

    assert request_body(Prompt(history, model="m"))["input"] == [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": ""}]},
        {"type": "function_call", "call_id": "c", "name": "shell", "arguments": "{}"},
        {
            "type": "function_call_output",
            "call_id": "c",
            "output": "aborted: the turn was interrupted before this call had an output",
        },
        HI_ITEM,
    ]


ENTRIES: st.SearchStrategy[HistoryEntry] = st.one_of(
    st.just(HI),
    st.builds(AgentMessage, st.text()),
    st.builds(CompactedHistory, st.text()),
    st.builds(ToolCall, st.sampled_from("abc"), st.just("shell"), st.just("{}")),
    st.builds(ToolOutput, st.sampled_from("abc"), st.text()),
)


@given(st.lists(ENTRIES))
def test_calls_and_outputs_always_belong_together(history: list[HistoryEntry]) -> None:
    items = request_body(Prompt(tuple(history), model="m"))["input"]

    assert isinstance(items, list)
    calls = {item["call_id"] for item in items if item["type"] == "function_call"}
    outputs = {item["call_id"] for item in items if item["type"] == "function_call_output"}
    assert calls == outputs


@pytest.mark.parametrize("schema", ["", "[]", "5", "{"])
def test_an_output_schema_that_is_no_object_is_refused(schema: str) -> None:
    with pytest.raises(EngineError, match="outputSchema is not a JSON object") as caught:
        request_body(Prompt((HI,), model="m", output_schema=schema))

    assert caught.value.info == "badRequest"


PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("traceparent", "tracestate", "headers"),
    [
        (PARENT, "a=b", {"traceparent": PARENT, "tracestate": "a=b"}),
        (PARENT, "", {"traceparent": PARENT}),
        (PARENT, "a=b\r\nX: y", {"traceparent": PARENT}),
        (PARENT, "ü=b", {"traceparent": PARENT}),
        ("", "a=b", {}),
    ],
)
def test_the_trace_context_goes_out_as_headers(
    traceparent: str, tracestate: str, headers: dict[str, str]
) -> None:
    prompt = Prompt((HI,), model="m", traceparent=traceparent, tracestate=tracestate)

    assert trace_headers(prompt) == headers


def test_the_tools_are_strict_schemas() -> None:
    for tool in TOOLS:
        schema = tool["parameters"]
        assert isinstance(schema, dict)
        assert tool["strict"] is True
        assert schema["required"] == list(schema["properties"])
        assert schema["additionalProperties"] is False


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        ('{"a":null,"b":[null],"c":false}', '{"b":[null],"c":false}'),
        ("{}", "{}"),
        ("not json", "not json"),
        ("[null]", "[null]"),
    ],
)
def test_nulls_stand_for_nothing(arguments: str, kept: str) -> None:
    assert without_nulls(arguments) == kept
