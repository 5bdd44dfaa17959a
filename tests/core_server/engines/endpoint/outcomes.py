"""What came of a sample, and what must hold of it whatever the endpoint sent. Pure."""

from collections import Counter
from collections.abc import Iterable

import msgspec

from core_server.engines.base import (
    Event,
    MessageDone,
    MessageStarted,
    ReasoningDelta,
    ReasoningDone,
    ReasoningStarted,
    Retrying,
    TextDelta,
    ToolCall,
    Usage,
)


class Outcome(msgspec.Struct):
    """A sample's outcome.

    Attributes:
        messages: Texts that were told to their end.
        reasoning: The same of reasoning, its parts joined.
        calls: Name and arguments of each call.
        usages: How often usage was told.
        failure: Its message when it failed, else None.
    """

    messages: Counter[str]
    reasoning: Counter[str]
    calls: Counter[tuple[str, str]]
    usages: int
    failure: str | None


def outcome(events: Iterable[Event], failure: str | None) -> Outcome:
    """Add up a sample's events; asserts what holds of each on the way."""
    result = Outcome(Counter(), Counter(), Counter(), 0, failure)
    begun: set[str] = set()
    still: set[str] = set()
    call_ids: set[str] = set()
    for event in events:
        match event:
            case MessageStarted(item_id) | ReasoningStarted(item_id):
                assert item_id not in begun, "an item begins once"
                begun.add(item_id)
                still.add(item_id)
            case TextDelta(item_id, text) | ReasoningDelta(item_id, _, text):
                assert item_id in still, "deltas are of an open item"
                assert text, "a delta has text"
            case MessageDone(item_id, text):
                still.remove(item_id)
                result.messages[text] += 1
            case ReasoningDone(item_id, summary):
                still.remove(item_id)
                result.reasoning["".join(summary)] += 1
            case ToolCall(call_id, name, arguments):
                assert call_id not in call_ids, "call ids are unique"
                assert name, "a call has a name"
                call_ids.add(call_id)
                result.calls[name, arguments] += 1
            case Usage():
                result.usages += 1
            case Retrying():
                still.clear()
        msgspec.json.encode(event)  # raises for what no client can be told
        assert repr(event).encode("utf-8")
    assert result.usages <= 1
    assert failure is None or failure.strip(), "a failure says something"
    return result
