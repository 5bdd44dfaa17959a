"""The test endpoint itself: strict enough for clients that check every event."""

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator

import aiohttp
import msgspec
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from tests.responses_api import Call, Reasoning, Reply, ResponsesApi, Text
from tests.responses_events import Json, reply_to, stream_events

LIMIT_S = 20
EVENT: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)


@pytest.fixture
async def api() -> AsyncIterator[ResponsesApi]:
    async with ResponsesApi() as endpoint:
        yield endpoint


@given(
    st.lists(
        st.one_of(
            st.builds(Text, st.text(), st.booleans()),
            st.builds(Reasoning, st.lists(st.text()).map(tuple)),
            st.builds(Call, st.text(), st.text()),
        )
    ),
    st.sampled_from(["completed", "failed", "incomplete", "error"]),
)
def test_every_event_is_as_the_official_package_types_it(
    items: list[Text | Reasoning | Call], end: str
) -> None:
    reply = msgspec.convert({"items": [], "end": end}, Reply)
    reply = msgspec.structs.replace(reply, items=tuple(items))

    for number, event in enumerate(stream_events(reply, "1", "m")):
        EVENT.validate_python({**event, "sequence_number": number}, strict=True)


async def test_the_official_client_reads_it(api: ResponsesApi) -> None:
    api.script(Reply((Reasoning(("hm",)), Text("hi you"), Call("f", "{}", "c1"))))

    async with openai.AsyncOpenAI(base_url=api.url, api_key="k") as client:
        stream = await client.responses.create(model="m", input="hello", stream=True)
        events = [event async for event in stream]

    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == "hi you"
    assert [item.type for item in last.response.output] == [
        "reasoning",
        "message",
        "function_call",
    ]
    assert api.seen[0].body["input"] == "hello"


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("text: hi", Reply((Text("hi"),))),
        ("think: hm", Reply((Reasoning(("hm",)), Text("Hello from the model")))),
        ("call: f {}", Reply((Call("f", "{}"),))),
        ("call: f", Reply((Call("f", "{}"),))),
        ("slow: 0.4", Reply((Text("word word "),), delay_s=0.2)),
        ("fail: no", Reply(end="failed", error=("invalid_prompt", "no"))),
        ("http503", Reply(status=503)),
        ("cut", Reply((Text("Hello from the model"),), end="cut", after=5)),
        ("incomplete", Reply((Text("Hello from the model"),), end="incomplete")),
        ("anything", Reply((Text("Hello from the model"),))),
    ],
)
def test_unscripted_requests_are_answered_by_their_text(text: str, reply: Reply) -> None:
    content = [{"type": "input_text", "text": text}]
    bodies: list[Json] = [
        {"input": text},
        {"input": [{"type": "message", "role": "user", "content": content}]},
    ]

    assert [reply_to(body) for body in bodies] == [reply, reply]


def test_a_tool_output_is_answered_with_a_message() -> None:
    body: Json = {"input": [{"type": "function_call_output", "call_id": "c", "output": "cut"}]}

    assert reply_to(body) == Reply((Text("Hello from the model"),))


async def test_as_a_process_it_prints_its_url_and_ends_with_its_stdin() -> None:
    async with asyncio.timeout(LIMIT_S), aiohttp.ClientSession() as session:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.responses_api",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        url = (await process.stdout.readline()).decode().strip()
        root = url.removesuffix("/v1")
        script = msgspec.json.encode([Reply((Text("scripted"),))])
        async with session.post(f"{root}/script", data=script) as answer:
            assert answer.status == 200
        async with session.post(f"{url}/responses", json={"model": "m", "input": "x"}) as answer:
            assert "scripted" in await answer.text()
        async with session.get(f"{root}/seen") as answer:
            assert [one["body"] for one in await answer.json()] == [{"model": "m", "input": "x"}]
        async with session.get(f"{url}/models") as answer:
            assert await answer.json() == {"object": "list", "data": [], "models": []}
        process.stdin.close()
        assert await process.wait() == 0


def test_ids_are_told_apart_by_their_serial() -> None:
    replies = [stream_events(Reply((Text("a"), Call("f", "{}"))), serial, "m") for serial in "12"]

    ids = [
        item["id"]
        for event in itertools.chain(*replies)
        if isinstance(item := event.get("item"), dict)
    ]

    assert len(set(ids)) == 4
