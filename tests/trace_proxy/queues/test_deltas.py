"""Joining text deltas: the same text, the same order, fewer messages."""

import json
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trace_proxy.queues.deltas import METHODS, join_deltas

AGENT = "item/agentMessage/delta"


def message(method: str, **params: object) -> bytes:
    return json.dumps({"method": method, "params": params}).encode()


def delta(
    text: str, item: str = "i", thread: str = "t", method: str = AGENT, **more: object
) -> bytes:
    return message(method, threadId=thread, itemId=item, delta=text, **more)


def unwrap(frame: bytes) -> bytes:
    return frame.removesuffix(b"\n")


def wrap(message: bytes) -> bytes:
    return message + b"\n"


def joined(*messages: bytes) -> list[object]:
    frames = join_deltas(map(wrap, messages), unwrap, wrap)
    assert all(frame.endswith(b"\n") for frame in frames)
    return [json.loads(frame) for frame in frames]


def loaded(*messages: bytes) -> list[object]:
    return [json.loads(message) for message in messages]


def test_deltas_of_one_item_become_one() -> None:
    assert joined(delta("Hel"), delta("lo, "), delta("wörld \n")) == loaded(
        delta("Hello, wörld \n")
    )


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_text_delta_of_the_reference_is_joined(method: str) -> None:
    assert joined(delta("a", method=method), delta("b", method=method)) == loaded(
        delta("ab", method=method)
    )


def test_the_joined_message_has_all_else_of_the_first() -> None:
    first = (
        b'{ "jsonrpc": "2.0", "method":"item/agentMessage/delta", "params":{"threadId":"t",'
        b' "turnId":"u", "itemId":"i", "delta" : "a\\"", "new":[1, 2]}, "emittedAtMs":1 }'
    )
    second = first.replace(b'"a\\""', b'"\\u00e9"').replace(b'Ms":1', b'Ms":2')

    whole = (
        b'{"jsonrpc":"2.0","method":"item/agentMessage/delta","params":{"threadId":"t",'
        b'"turnId":"u","itemId":"i","new":[1, 2],"delta":"a\\"\\u00e9"},"emittedAtMs":1}'
    )
    assert join_deltas([first, second], bytes, bytes) == [whole]


def test_a_delta_alone_stays_the_same_object() -> None:
    frame = delta("a")

    assert join_deltas([frame], bytes, bytes)[0] is frame


@pytest.mark.parametrize(
    "between",
    [
        message("item/completed", threadId="t", item={"id": "other"}),
        message("turn/completed", threadId="t", turn={}),
        message("configWarning", summary="names no thread"),
        message("skills/changed"),
        b'{"method":"skills/changed"}',
        b'{"id":5,"result":{}}',
        b'{"error":{"code":1,"message":"m"},"id":5}',
        b'{"method":"item/fileChange/requestApproval","id":0,"params":{"threadId":"t"}}',
        b"what is this?",
        b'"\xff"',
    ],
)
def test_a_message_that_may_care_is_a_barrier(between: bytes) -> None:
    frames = [delta("a"), between, delta("b")]

    assert join_deltas(frames, bytes, bytes) == frames


@pytest.mark.parametrize(
    "between",
    [
        message("turn/completed", threadId="other", turn={}),
        b'{"method":"item/fileChange/requestApproval","id":0,"params":{"threadId":"other"}}',
        delta("x", item="other"),
        delta("x", thread="other"),
    ],
)
def test_other_threads_and_other_items_are_passed_over(between: bytes) -> None:
    assert joined(delta("a"), between, delta("b")) == loaded(delta("ab"), between)


@pytest.mark.parametrize(
    "other",
    [
        delta("x", contentIndex=1),
        delta("x", turnId="u2"),
        delta("x", method="item/plan/delta"),
        message(AGENT, threadId="t", itemId="i", delta=5),
        message(AGENT, threadId="t", itemId="i"),
        message(AGENT, threadId="t", itemId="i", delta=None),
        b'{"method":"item/agentMessage/delta"}',
        b'{"method":"item/agentMessage/delta","id":1,"params":{"threadId":"t","delta":"x"}}',
    ],
)
def test_a_delta_that_differs_is_not_joined_and_not_overtaken(other: bytes) -> None:
    frames = [delta("a"), other, delta("b")]

    assert join_deltas(frames, bytes, bytes) == frames


def test_base64_is_not_text() -> None:
    output = message(
        "command/exec/outputDelta", processId="p", stream="stdout", deltaBase64="YQo="
    )

    assert join_deltas([output, output], bytes, bytes) == [output, output]


def test_a_transcript_has_no_item_and_is_joined_by_thread_and_role() -> None:
    def transcript(text: str, role: str) -> bytes:
        return message("thread/realtime/transcript/delta", threadId="t", role=role, delta=text)

    assert joined(
        transcript("a", "user"),
        transcript("b", "user"),
        transcript("c", "assistant"),
        transcript("d", "user"),
    ) == loaded(transcript("ab", "user"), transcript("c", "assistant"), transcript("d", "user"))


MESSAGES = st.lists(
    st.one_of(
        st.builds(
            delta,
            st.text(),
            st.sampled_from(["i", "j"]),
            st.sampled_from(["t", "u"]),
            st.sampled_from(sorted(METHODS)[:2]),
        ),
        st.builds(
            lambda thread, n: message("turn/diff/updated", threadId=thread, diff=n),
            st.sampled_from(["t", "u"]),
            st.integers(),
        ),
        st.builds(lambda n: b'{"id":%d,"result":{}}' % n, st.integers()),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(MESSAGES, st.booleans())
def test_joining_loses_no_text_and_keeps_every_items_order(
    messages: list[bytes],
    ascii_only: bool,  # noqa: FBT001 - drawn
) -> None:
    frames = [
        json.dumps(json.loads(each), ensure_ascii=ascii_only).encode(errors="surrogatepass")
        for each in messages
    ]
    before = [json.loads(frame) for frame in frames]
    after = [json.loads(frame) for frame in join_deltas(frames, bytes, bytes)]

    assert stories(after) == stories(before)
    assert join_deltas(map(dumped, after), bytes, bytes) == [*map(dumped, after)], "joined at once"


def dumped(value: object) -> bytes:
    return json.dumps(value).encode()


def stories(messages: list[dict[str, object]]) -> dict[str, list[str]]:
    """What a client can tell: the order of answers, and of each item within its thread."""
    told: dict[str, list[str]] = defaultdict(list)
    for each in messages:
        params = each.get("params")
        if not isinstance(params, dict):
            for story in (*told, "t i", "t j", "u i", "u j", "t", "u", "answers"):
                if told[story][-1:] != [f"answer {each['id']}"]:
                    told[story].append(f"answer {each['id']}")
            continue
        thread = params["threadId"]
        if "itemId" not in params:
            for story in (thread, f"{thread} i", f"{thread} j"):
                told[story].append(f"diff {params['diff']}")
            continue
        item = told[f"{thread} {params['itemId']}"]
        if item and item[-1].startswith(f"{each['method']}:"):
            item[-1] += params["delta"]
        else:
            item.append(f"{each['method']}:{params['delta']}")
    return told
