"""The Responses API's stream as engine events: the reader machine.

    STREAMING --response.completed--> completed
        |------- response.failed, response.incomplete, error --> failure is set

Pure: `answer` feeds it decoded events, one response per reader. An event says a thing up to
four times (a delta, the part's end, the item's end, the response's end), and each of these
may be missing, repeated, out of order or unreadable: what is said last and whole counts, an
item is told of once, and what nobody says readably fails the response.

Which item an event is about: its id first, then its index, then the one that is open; no
endpoint is trusted to get all three right. Tool calls are held back until the response is
complete: a response that is cut and asked for again must not run a command twice.
"""

from collections.abc import Callable
from typing import Literal

import msgspec

from core_server.engines.base import Event, Usage
from core_server.engines.endpoint.failures import (
    Failure,
    disconnected,
    incomplete,
    reported,
    unreadable,
)
from core_server.engines.endpoint.items import Asked, PartKey, Spoken, tool_calls
from core_server.engines.endpoint.tools import without_nulls
from core_server.engines.endpoint.values import (
    Json,
    member,
    object_text,
    string,
    text_of,
    whole,
)
from core_server.engines.endpoint.words import misplaced_in, said_in

# Far more than any model writes, and its message still fits the 16 MiB line limit.
MAX_RESPONSE_CHARS = 4 * 1024 * 1024

Kind = Literal["message", "reasoning", "call"]

# The longest that the kinds of endpoint give is 195.
_MAX_ID_CHARS = 256

_KINDS: dict[str, Kind] = {
    "message": "message",
    "reasoning": "reasoning",
    "function_call": "call",
    "custom_tool_call": "call",
}
_ENDS = ("completed", "incomplete", "failed", "cancelled")
_UNFINISHED = ("queued", "in_progress")


class _Slot(msgspec.Struct):
    """An item of the response.

    Attributes:
        kind: Which of the fields below is in use.
        spoken: Of a message or reasoning item.
        asked: Of a call.
        index: Its `output_index`.
        named: Whether the endpoint gave it an id.
        done: It was told to its end.
        doubtful: A piece of it could not be read.
    """

    kind: Kind
    spoken: Spoken
    asked: Asked
    index: int | None = None
    named: bool = False
    done: bool = False
    doubtful: bool = False


class ResponseReader:
    """Reads one response.

    Args:
        new_id: Gives a new id for a prefix.
        taken_call_ids: Call ids that the thread has already used.

    Attributes:
        completed: The response is complete; nothing follows.
        failure: Why it ended, when it did not complete.
        ending: Never here: the last event is the end.
    """

    ending = False

    def __init__(self, new_id: Callable[[str], str], taken_call_ids: frozenset[str]) -> None:
        self._new_id = new_id
        self._taken = taken_call_ids
        self._slots: list[_Slot] = []
        self._by_id: dict[tuple[Kind, str], _Slot] = {}
        self._streamed_chars = 0
        self._told_chars = 0
        self._junk = ""
        self._strange = ""
        self.completed = False
        self.failure: Failure | None = None

    def __repr__(self) -> str:
        state = "completed" if self.completed else "failed" if self.failure else "streaming"
        calls = sum(slot.kind == "call" for slot in self._slots)
        still = sum(not slot.done and slot.kind != "call" for slot in self._slots)
        return f"<ResponseReader {state} open={still} calls={calls}>"

    def feed(self, event: object, name: str = "") -> list[Event]:
        """Take the next event of the stream; unknown ones are passed over.

        Args:
            event: Decoded JSON.
            name: The name of its frame, which counts where it has no type itself.
        """
        assert not self.completed, "the response is over"
        assert self.failure is None, "the response is over"
        if not isinstance(event, dict):
            return []
        kind = event.get("type")
        if not isinstance(kind, str) or kind not in _HANDLERS:
            kind = self._guessed(event, name if name in _HANDLERS else "")
        handler = _HANDLERS.get(kind)
        if handler is not None:
            return handler(self, event)
        if self.failure is None and (said := misplaced_in(event)) is not None:
            self.failure = reported(said, again=False)
        return []

    def junk(self, text: str) -> None:
        """A frame came that is no JSON."""
        self._junk = self._junk or text

    def marker(self) -> list[Event]:
        """`[DONE]` came, which means nothing here."""
        return []

    def whole(self, body: Json) -> list[Event]:
        """Take a response that came whole, without a stream."""
        if (status := string(body.get("status"))) in _UNFINISHED:
            self.failure = unreadable(f"a response that is {status}, and no stream of it")
            return []
        if isinstance(body.get("output"), list) or body.get("object") == "response":
            return self._ended({"response": body})
        self.failure = _is_chat() if "choices" in body else unreadable("JSON that is no response")
        return []

    def end(self) -> list[Event]:
        """The stream closed before its end."""
        reason = "stream closed before response.completed"
        self.failure = disconnected(f"{reason}: {self._junk}" if self._junk else reason)
        return []

    def _guessed(self, event: Json, name: str) -> str:
        """What an event without a known type is."""
        if name:
            return name
        if event.get("error") and not string(event.get("type")).startswith("response."):
            return "error"
        if "choices" in event and "output" not in event:
            self.failure = _is_chat()
            return ""
        status = member(event.get("response"), "status")
        if not isinstance(event.get("type"), str):
            if status in _ENDS:
                return f"response.{status}"
            if event.keys() & {"delta", "item", "part", "text"}:
                self.junk("an event without a type")
        return ""

    def _added(self, event: Json) -> list[Event]:
        item = event.get("item")
        if not isinstance(item, dict) or (kind := self._kind(item)) is None:
            return []
        index = whole(event.get("output_index"))
        slot = self._find(kind, string(item.get("id")), index) or self._of_call(
            kind, item, index, self._slots
        )
        if slot is None or (slot.done and not self._is_again(slot, item)):
            slot = self._new(kind, string(item.get("id")), index)
        if kind == "call":
            _named(slot.asked, item)
            self._take_arguments(slot, item)
        # Reasoning begins before its first text: people see that the model thinks.
        return slot.spoken.begin() if kind == "reasoning" and not slot.done else []

    def _text_delta(self, event: Json) -> list[Event]:
        return self._delta(event, "message", ("text", whole(event.get("content_index")) or 0))

    def _summary_delta(self, event: Json) -> list[Event]:
        part = ("summary", whole(event.get("summary_index")) or 0)
        return self._delta(event, "reasoning", part)

    def _reasoning_delta(self, event: Json) -> list[Event]:
        part = ("content", whole(event.get("content_index")) or 0)
        return self._delta(event, "reasoning", part)

    def _arguments_delta(self, event: Json) -> list[Event]:
        return self._delta(event, "call", ("arguments", 0))

    def _delta(self, event: Json, kind: Kind, part: PartKey) -> list[Event]:
        text = text_of(event.get("delta"))
        slot = self._about(event, kind)
        if slot.done:
            return []  # late: what the item's end said counts
        if not text:
            slot.doubtful |= kind != "reasoning" and not isinstance(event.get("delta"), str)
            return []
        self._streamed_chars += len(text)
        if not self._fits():
            return []
        if kind == "call":
            slot.asked.piece(text)
            return []
        return slot.spoken.add(part, text)

    def _text_done(self, event: Json) -> list[Event]:
        return self._part_done(event, "message", ("text", whole(event.get("content_index")) or 0))

    def _summary_done(self, event: Json) -> list[Event]:
        part = ("summary", whole(event.get("summary_index")) or 0)
        return self._part_done(event, "reasoning", part)

    def _reasoning_done(self, event: Json) -> list[Event]:
        part = ("content", whole(event.get("content_index")) or 0)
        return self._part_done(event, "reasoning", part)

    def _part_done(self, event: Json, kind: Kind, part: PartKey) -> list[Event]:
        text = text_of(event.get("text")) or text_of(event.get("refusal")) or ""
        if not text:
            return []
        slot = self._about(event, kind, new_after_done=False)
        if not slot.done and self._fits(text):
            slot.spoken.settle(part, text)
            slot.doubtful = False
        return []

    def _content_done(self, event: Json) -> list[Event]:
        part = event.get("part")
        if string(member(part, "type")) not in {"output_text", "text", "refusal"}:
            return []
        return self._text_done({**event, "text": part})

    def _arguments_done(self, event: Json) -> list[Event]:
        slot = self._about(event, "call", new_after_done=False)
        slot.asked.named(string(event.get("name")), string(event.get("call_id")))
        self._take_arguments(slot, event)
        return []

    def _item_done(self, event: Json) -> list[Event]:
        item = event.get("item")
        if not isinstance(item, dict):
            self.junk("an item that is no object")
            return []
        kind = self._kind(item)
        if kind is None:
            return []
        slot = self._find(kind, string(item.get("id")), whole(event.get("output_index")))
        if slot is None or (slot.done and not self._is_again(slot, item)):
            index = whole(event.get("output_index"))
            slot = (
                self._of_call(kind, item, index, self._slots)
                or self._by_text(kind, item, index, self._slots)
                or self._new(kind, string(item.get("id")), index)
            )
        return self._finish(slot, item)

    def _kind(self, item: Json) -> Kind | None:
        """What an item is; one of another kind is remembered in case it is all there is."""
        kind = _kind(item)
        if kind is None:
            self._strange = self._strange or string(item.get("type"))[:64]
        return kind

    def _is_again(self, slot: _Slot, item: Json) -> bool:
        """Whether a finished item is finished once more, rather than another without an id."""
        if self._by_id.get((slot.kind, string(item.get("id")))) is slot:
            return True
        if slot.kind == "call":
            return string(item.get("call_id")) in {slot.asked.call_id, ""}
        return "".join(_texts(item).values()) in {slot.spoken.text, ""}

    def _finish(self, slot: _Slot, item: Json) -> list[Event]:
        self._know(slot, string(item.get("id")))
        if slot.kind == "call":
            _named(slot.asked, item)
            self._take_arguments(slot, item)
            slot.done = True
            return []
        finals = _texts(item)
        if slot.done or not self._fits("".join(finals.values())):
            return []
        if slot.doubtful and not any(finals.values()):
            return []  # the response's end may still say what it is
        slot.doubtful = False
        slot.done = True
        return slot.spoken.finish(finals)

    def _completed(self, event: Json) -> list[Event]:
        return self._ended(event, "completed")

    def _incomplete(self, event: Json) -> list[Event]:
        return self._ended(event, "incomplete")

    def _failed(self, event: Json) -> list[Event]:
        return self._ended(event, "failed")

    def _ended(self, event: Json, told: str = "completed") -> list[Event]:
        response = event.get("response")
        status = member(response, "status")
        # Some endpoints end every stream as completed, and say in it what it is.
        end = status if told == "completed" and status in _ENDS else told
        if end in {"failed", "cancelled"}:
            said = said_in(member(response, "error"))
            cancelled = status == "cancelled" and not said.words
            self.failure = _CANCELLED if cancelled else reported(said)
            return []
        output = member(response, "output")
        events = self._untold(output if isinstance(output, list) else [])
        if self.failure is not None:
            return events
        if end == "incomplete":
            for slot in self._slots:
                slot.doubtful = False
        events += [out for slot in self._slots for out in self._close(slot)]
        if end == "incomplete":
            reason = string(member(member(response, "incomplete_details"), "reason"))
            self.failure = incomplete(reason)
            return [*events, *_usage(response)]
        if self._junk and not output:
            self.failure = unreadable(self._junk)
        if any(slot.doubtful for slot in self._slots):
            self.failure = unreadable("a piece of it is no text")
        calls = self._calls()
        if self.failure is not None:
            return events
        self.completed = True
        return [*events, *calls, *_usage(response)]

    def _untold(self, output: list[object]) -> list[Event]:
        """What the whole response says: of items that were told of, and of others."""
        events: list[Event] = []
        items = [(item, self._kind(item)) for item in output if isinstance(item, dict)]
        known = [
            self._by_id.get((kind, string(item.get("id")))) if kind is not None else None
            for item, kind in items
        ]
        # Which of the others are new is told by what is left.
        left = [slot for slot in self._slots if not any(slot is one for one in known)]
        for index, (item, kind) in enumerate(items):
            if kind is None:
                continue
            slot = known[index] or self._of_call(kind, item, None, left)
            slot = slot or self._by_text(kind, item, None, left)
            slot = slot or next((one for one in left if one.kind == kind), None)
            if slot is None and self._was_said(kind, item):
                continue
            left = [one for one in left if one is not slot]
            events += self._finish(slot or self._new(kind, string(item.get("id")), index), item)
        return events

    def _was_said(self, kind: Kind, item: Json) -> bool:
        same = [slot for slot in self._slots if slot.kind == kind]
        if string(item.get("id")) or string(item.get("call_id")):
            return False
        if kind == "call":
            call = (string(item.get("name")), without_nulls(_arguments(item)))
            return any((slot.asked.name, slot.asked.arguments()) == call for slot in same)
        text = "".join(_texts(item).values())
        return any(slot.spoken.text == text for slot in same)

    def _close(self, slot: _Slot) -> list[Event]:
        if slot.done or slot.kind == "call" or slot.doubtful:
            return []
        slot.done = True
        streamed = slot.spoken.streamed()
        if not streamed and slot.kind == "message" and not slot.spoken.spoke:
            return []
        if streamed and any(
            other.kind == slot.kind and streamed in other.spoken.text for other in self._slots
        ):
            return []  # a piece under a wrong id: cut, its item has it
        return slot.spoken.finish({})

    def _calls(self) -> list[Event]:
        asked = [slot.asked for slot in self._slots if slot.kind == "call"]
        if not all(one.name for one in asked):
            self.failure = unreadable("a tool call without a name")
        if self._strange and all(slot.kind == "reasoning" for slot in self._slots):
            self.failure = unreadable(f"all that it has is an item of type {self._strange}")
        return tool_calls(asked, self._taken, self._new_id)

    def _error(self, event: Json) -> list[Event]:
        self.failure = reported(said_in(event), again=False)
        return []

    def _about(self, event: Json, kind: Kind, *, new_after_done: bool = True) -> _Slot:
        """The item that an event is about; a new one where it is about none."""
        item_id = event.get("item_id")
        if isinstance(item_id, str) and (known := self._by_id.get((kind, item_id))) is not None:
            return known
        item_id = string(item_id)
        index = whole(event.get("output_index"))
        slot = self._find(kind, item_id, index)
        if slot is None or (slot.done and new_after_done):
            return self._new(kind, item_id, index)
        self._know(slot, item_id)
        return slot

    def _find(self, kind: Kind, item_id: str, index: int | None) -> _Slot | None:
        known = self._by_id.get((kind, item_id))
        if known is not None:
            return known
        same = [slot for slot in self._slots if slot.kind == kind]
        if index is not None and (there := [slot for slot in same if slot.index == index]):
            latest = there[-1]
            return None if latest.done and item_id else latest
        still = [
            slot
            for slot in same
            if not slot.done
            and (index is None or slot.index is None)
            # One that goes by another id is another, if that id was ever used.
            and not (item_id and slot.named and (slot.spoken.spoke or slot.asked.said()))
        ]
        if still:
            return still[-1]
        return same[-1] if same and not item_id and index is None else None

    def _of_call(
        self, kind: Kind, item: Json, index: int | None, slots: list[_Slot]
    ) -> _Slot | None:
        call_id = string(item.get("call_id"))
        for slot in slots:
            if kind == slot.kind == "call" and call_id and slot.asked.call_id == call_id:
                return slot if index is None or slot.index in {None, index} else None
        return None

    def _new(self, kind: Kind, item_id: str, index: int | None) -> _Slot:
        ours = self._new_id("rs" if kind == "reasoning" else "msg") if kind != "call" else ""
        slot = _Slot(kind, Spoken(ours, reasoning=kind == "reasoning"), Asked(), index)
        self._slots.append(slot)
        self._know(slot, item_id)
        return slot

    def _know(self, slot: _Slot, item_id: str) -> None:
        if item_id:
            self._by_id.setdefault((slot.kind, item_id), slot)
            slot.named = True

    def _by_text(
        self, kind: Kind, item: Json, index: int | None, slots: list[_Slot]
    ) -> _Slot | None:
        """The open item that a finished one goes on from, where ids and indexes are no help."""
        text = _arguments(item) if kind == "call" else "".join(_texts(item).values())
        call_id = string(item.get("call_id"))
        for slot in slots:
            if index is not None and slot.index not in {None, index}:
                continue
            if call_id and slot.asked.call_id not in {"", call_id}:
                continue
            streamed = slot.asked.said() if kind == "call" else slot.spoken.streamed()
            if slot.kind == kind and not slot.done and streamed and text.startswith(streamed):
                return slot
        return None

    def _take_arguments(self, slot: _Slot, source: Json) -> None:
        arguments = _arguments(source)
        if arguments.strip() and self._fits(arguments):
            slot.asked.all_of_it(arguments)
            slot.doubtful = False

    def _fits(self, told: str = "") -> bool:
        self._told_chars += len(told)
        # What is told whole is told up to three times: the part, the item, the response.
        all_told = max(len(told), self._told_chars // 3)
        if max(self._streamed_chars, all_told) > MAX_RESPONSE_CHARS:
            self.failure = Failure(f"the response is longer than {MAX_RESPONSE_CHARS} characters")
        return self.failure is None


_HANDLERS: dict[str, Callable[[ResponseReader, Json], list[Event]]] = {
    "response.output_item.added": ResponseReader._added,  # noqa: SLF001 - its own table
    "response.output_text.delta": ResponseReader._text_delta,  # noqa: SLF001
    "response.output_text.done": ResponseReader._text_done,  # noqa: SLF001
    "response.refusal.delta": ResponseReader._text_delta,  # noqa: SLF001
    "response.refusal.done": ResponseReader._text_done,  # noqa: SLF001
    "response.reasoning_summary_text.delta": ResponseReader._summary_delta,  # noqa: SLF001
    "response.reasoning_summary_text.done": ResponseReader._summary_done,  # noqa: SLF001
    "response.reasoning_text.delta": ResponseReader._reasoning_delta,  # noqa: SLF001
    "response.reasoning_text.done": ResponseReader._reasoning_done,  # noqa: SLF001
    "response.function_call_arguments.delta": ResponseReader._arguments_delta,  # noqa: SLF001
    "response.function_call_arguments.done": ResponseReader._arguments_done,  # noqa: SLF001
    "response.content_part.done": ResponseReader._content_done,  # noqa: SLF001
    "response.output_item.done": ResponseReader._item_done,  # noqa: SLF001
    "response.completed": ResponseReader._completed,  # noqa: SLF001
    "response.done": ResponseReader._completed,  # noqa: SLF001
    "response.incomplete": ResponseReader._incomplete,  # noqa: SLF001
    "response.failed": ResponseReader._failed,  # noqa: SLF001
    "response.cancelled": ResponseReader._failed,  # noqa: SLF001
    "error": ResponseReader._error,  # noqa: SLF001
}


_CANCELLED = Failure("the endpoint cancelled the response")


def _is_chat() -> Failure:
    return Failure(
        "the endpoint answers in Chat Completions, not as the Responses API: use --wire chat"
    )


def _kind(item: Json) -> Kind | None:
    """What an item is; by its members where it does not say."""
    told = item.get("type")
    if isinstance(told, str) and told:
        return _KINDS.get(told)
    if "arguments" in item or "call_id" in item:
        return "call"
    if "summary" in item:
        return "reasoning"
    return "message" if "content" in item else None


def _named(asked: Asked, item: Json) -> None:
    asked.named(string(item.get("name")), string(item.get("call_id")))


def _arguments(source: Json) -> str:
    return object_text(source.get("arguments")) or object_text(source.get("input"))


def _texts(item: Json) -> dict[PartKey, str]:
    """The texts of a whole item, by part."""
    texts: dict[PartKey, str] = {}
    if _kind(item) == "message":
        content = item.get("content")
        if isinstance(content, list):  # a part that stands there twice was said once
            content = [
                part
                for part, before in zip(content, [None, *content], strict=False)
                if part != before
            ]
        texts["text", 0] = text_of(content) or ""
        return texts
    for kind in ("summary", "content"):
        parts = item.get(kind)
        for number, part in enumerate(parts if isinstance(parts, list) else [parts]):
            if text := text_of(part):
                texts[kind, number] = text
    return texts


def _usage(response: object) -> list[Event]:
    return usage_of(member(response, "usage"), member(response, "id"))


def usage_of(value: object, response_id: object) -> list[Event]:
    """Return the token counts that an endpoint tells of, on either wire, if it does.

    Args:
        value: What it tells.
        response_id: What it calls the response, if that is text.
    """
    read = _count(value, "input_tokens", "prompt_tokens")
    written = _count(value, "output_tokens", "completion_tokens")
    if read is None and written is None:
        return []
    of_read = member(value, "input_tokens_details") or member(value, "prompt_tokens_details")
    of_written = member(value, "output_tokens_details") or member(
        value, "completion_tokens_details"
    )
    return [
        Usage(
            input_tokens=read or 0,
            output_tokens=written or 0,
            cached_input_tokens=whole(member(of_read, "cached_tokens")) or 0,
            reasoning_output_tokens=whole(member(of_written, "reasoning_tokens")) or 0,
            response_id=string(response_id)[:_MAX_ID_CHARS],
        )
    ]


def _count(value: object, *names: str) -> int | None:
    return next((n for name in names if (n := whole(member(value, name))) is not None), None)
