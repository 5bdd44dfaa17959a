import msgspec
import pytest

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
from core_server.engines.endpoint.chat_request import chat_body, chat_body_with
from core_server.engines.endpoint.responses_request import COMPACT_REQUEST, NO_OUTPUT


def user(*texts: str) -> UserMessage:
    return UserMessage(tuple(TextPart(text) for text in texts))


def messages(*history: HistoryEntry) -> object:
    return chat_body(Prompt(history, model="m"))["messages"]


def called(call_id: str, arguments: str = "{}", content: str | None = None) -> dict[str, object]:
    function = {"name": "shell", "arguments": arguments}
    calls = [{"id": call_id, "type": "function", "function": function}]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def output(call_id: str, text: str) -> dict[str, object]:
    return {"role": "tool", "tool_call_id": call_id, "content": text}


def test_a_request_carries_all_that_a_prompt_says() -> None:
    prompt = Prompt(
        (user("hi"),),
        model="m",
        effort="low",
        instructions="be brief",
        output_schema='{"type": "object"}',
    )

    body = chat_body(prompt)

    tools = body.pop("tools")
    assert body == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "hi"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "reasoning_effort": "low",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "final_output", "strict": True, "schema": {"type": "object"}},
        },
    }
    shell = msgspec.to_builtins(tools)[0]
    assert shell["type"] == "function"
    assert shell["function"]["parameters"]["required"] == ["command"]
    kinds = {schema["type"] for schema in shell["function"]["parameters"]["properties"].values()}
    assert kinds == {"array", "string", "integer", "boolean"}


def test_an_output_follows_its_call_wherever_it_came() -> None:
    steered = messages(
        user("go"),
        AgentMessage("I look."),
        ToolCall("c1", "shell", "{}"),
        user("faster"),
        ToolOutput("c1", "done"),
        ToolCall("c2", "shell", "{}"),
    )

    assert steered == [
        {"role": "user", "content": "go"},
        called("c1", content="I look."),
        output("c1", "done"),
        {"role": "user", "content": "faster"},
        called("c2"),
        output("c2", NO_OUTPUT),
    ]


def test_two_messages_of_one_role_are_made_one() -> None:
    image = UserMessage((TextPart("see"), ImagePart("https://x/y.png")))

    assert messages(user("a", "b"), user("c"), AgentMessage("d"), AgentMessage("e")) == [
        {"role": "user", "content": "a\nb\n\nc"},
        {"role": "assistant", "content": "d\n\ne"},
    ]
    assert messages(user("a"), image) == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "a"},
                {"type": "text", "text": "see"},
                {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
            ],
        }
    ]


def test_a_compaction_stands_for_what_was_before() -> None:
    told = messages(user("old"), CompactedHistory("short"), ToolOutput("gone", "x"), user("new"))

    assert told == [
        {
            "role": "user",
            "content": "Summary of the conversation before this point:\nshort\n\nnew",
        }
    ]


def test_compacting_asks_for_a_summary_without_tools() -> None:
    body = chat_body(Prompt((user("hi"), AgentMessage("ho")), model="m", compact=True))

    assert "tools" not in body
    assert msgspec.to_builtins(body["messages"])[-1] == {
        "role": "user",
        "content": COMPACT_REQUEST,
    }


def test_arguments_that_are_no_object_are_sent_as_one() -> None:
    """Endpoints that put them into a template parse them first."""
    told = messages(user("go"), ToolCall("c1", "shell", '{"a"'), ToolOutput("c1", "what?"))

    assert msgspec.to_builtins(told)[1] == called("c1", '{"unreadable":"{\\"a\\""}')


def test_what_was_said_goes_along_with_the_next_try() -> None:
    body = chat_body(Prompt((user("hi"),), model="m"))

    more = chat_body_with(body, "I look.")

    assert msgspec.to_builtins(more["messages"])[1:] == [
        {"role": "assistant", "content": "I look."}
    ]
    assert len(msgspec.to_builtins(body["messages"])) == 1


def test_a_schema_that_is_none_is_refused() -> None:
    with pytest.raises(EngineError, match=r"^outputSchema is not a JSON object"):
        chat_body(Prompt((user("hi"),), model="m", output_schema="["))
