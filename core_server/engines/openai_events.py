"""The Responses API's stream as engine events: the reader machine.

    STREAMING --response.completed--> completed
        |------- response.failed, response.incomplete, error --> failure is set

Pure: `openai_client` feeds it decoded events, one response per reader. It is lenient in
what only some endpoints send (no deltas, no `added` event, no usage), and never trusts
their ids to be unique. Tool calls are held back until the response is complete: a
response that is cut and asked for again must not run a command twice.
"""

from collections.abc import Callable

import msgspec

from core_server.engines.base import (
    Event,
    MessageDone,
    MessageStarted,
    ReasoningDelta,
    ReasoningDone,
    ReasoningStarted,
    TextDelta,
    ToolCall,
    Usage,
)
from core_server.engines.openai_failures import Failure, disconnected, incomplete, reported
from core_server.engines.openai_shapes import (
    DeltaEvent,
    ErrorShape,
    Item,
    ItemEvent,
    Key,
    PartKey,
    Response,
    ResponseEvent,
)
from core_server.engines.openai_tools import without_nulls

# Far more than any model writes, and its message still fits the 16 MiB line limit.
MAX_RESPONSE_CHARS = 4 * 1024 * 1024


class _Open(msgspec.Struct):
    """A message or reasoning item that is not done: its texts, by part."""

    item_id: str
    reasoning: bool
    parts: dict[PartKey, list[str]] = {}

    def texts(self) -> tuple[str, ...]:
        return tuple("".join(pieces) for pieces in self.parts.values())


class ResponseReader:
    """Reads one response.

    Args:
        new_id: Gives a new id for a prefix.
        taken_call_ids: Call ids that the thread has already used.

    Attributes:
        completed: The response is complete; nothing follows.
        failure: Why it ended, when it did not complete.
    """

    def __init__(self, new_id: Callable[[str], str], taken_call_ids: frozenset[str]) -> None:
        self._new_id = new_id
        self._taken = set(taken_call_ids)
        self._open: dict[Key, _Open] = {}
        self._items_done = 0
        self._calls: list[ToolCall] = []
        self._chars = 0
        self.completed = False
        self.failure: Failure | None = None

    def __repr__(self) -> str:
        state = "completed" if self.completed else "failed" if self.failure else "streaming"
        return f"<ResponseReader {state} open={len(self._open)} calls={len(self._calls)}>"

    def feed(self, event: object) -> list[Event]:
        """Take the next event of the stream; unknown ones are passed over."""
        assert not self.completed, "the response is over"
        assert self.failure is None, "the response is over"
        kind = event.get("type") if isinstance(event, dict) else None
        handler = _HANDLERS.get(kind) if isinstance(kind, str) else None
        if handler is None:
            return []
        try:
            return handler(self, event)
        except msgspec.ValidationError as error:
            self.failure = disconnected(f"{kind} is not as the Responses API says: {error}")
            return []

    def _added(self, event: object) -> list[Event]:
        added = msgspec.convert(event, ItemEvent)
        if added.item.type not in _ITEM_TYPES or added.key in self._open:
            return []
        return self._begin(added.key, reasoning=added.item.type == "reasoning")

    def _begin(self, key: Key, *, reasoning: bool) -> list[Event]:
        opened = _Open(self._new_id("rs" if reasoning else "msg"), reasoning)
        self._open[key] = opened
        started = ReasoningStarted if reasoning else MessageStarted
        return [started(opened.item_id)]

    def _text_delta(self, event: object) -> list[Event]:
        delta = msgspec.convert(event, DeltaEvent)
        return self._append(delta.key, _TEXT, delta.delta, reasoning=False)

    def _reasoning_delta(self, event: object) -> list[Event]:
        delta = msgspec.convert(event, DeltaEvent)
        return self._append(delta.key, delta.part, delta.delta, reasoning=True)

    def _append(self, key: Key, part: PartKey, text: str, *, reasoning: bool) -> list[Event]:
        if not text:
            return []
        self._chars += len(text)
        if self._chars > MAX_RESPONSE_CHARS:
            self.failure = Failure(f"the response is longer than {MAX_RESPONSE_CHARS} characters")
            return []
        events = [] if key in self._open else self._begin(key, reasoning=reasoning)
        opened = self._open[key]
        opened.parts.setdefault(part, []).append(text)
        if opened.reasoning:
            number = list(opened.parts).index(part)
            return [*events, ReasoningDelta(opened.item_id, number, text)]
        return [*events, TextDelta(opened.item_id, text)]

    def _item_done(self, event: object) -> list[Event]:
        done = msgspec.convert(event, ItemEvent)
        self._items_done += 1
        return self._finish(done.key, done.item)

    def _finish(self, key: Key, item: Item) -> list[Event]:
        if item.type == "function_call":
            self._hold(item)
        if item.type not in _ITEM_TYPES:
            return []
        reasoning = item.type == "reasoning"
        events = [] if key in self._open else self._begin(key, reasoning=reasoning)
        if not self._open[key].parts:
            # No deltas came: the item's own text is the one delta of each part.
            for part, text in _whole(item):
                events += self._append(key, part, text, reasoning=reasoning)
        return events if self.failure else [*events, self._close(key)]

    def _close(self, key: Key) -> Event:
        opened = self._open.pop(key)
        if opened.reasoning:
            return ReasoningDone(opened.item_id, opened.texts())
        return MessageDone(opened.item_id, "".join(opened.texts()))

    def _hold(self, item: Item) -> None:
        call_id = item.call_id or ""
        if not call_id or call_id in self._taken:
            call_id = self._new_id("call")
        self._taken.add(call_id)
        self._calls.append(ToolCall(call_id, item.name, without_nulls(item.arguments or "{}")))

    def _close_all(self) -> list[Event]:
        return [self._close(key) for key in list(self._open)]

    def _completed(self, event: object) -> list[Event]:
        response = msgspec.convert(event, ResponseEvent).response
        events: list[Event] = []
        # Some endpoints never say that an item is done; then the whole response tells.
        untold = [] if self._items_done else response.output or []
        streamed = self._chars > 0
        for index, item in enumerate(untold):
            if not streamed or item.type == "function_call":
                events += self._finish(index, item)
        if self.failure:
            return events
        self.completed = True
        return [*events, *self._close_all(), *self._calls, *_usage(response)]

    def _incomplete(self, event: object) -> list[Event]:
        response = msgspec.convert(event, ResponseEvent).response
        details = response.incomplete_details
        self.failure = incomplete((details and details.reason) or "")
        return [*self._close_all(), *_usage(response)]

    def _failed(self, event: object) -> list[Event]:
        self._report(msgspec.convert(event, ResponseEvent).response.error)
        return []

    def _error(self, event: object) -> list[Event]:
        self._report(msgspec.convert(event, ErrorShape))
        return []

    def _report(self, error: ErrorShape | None) -> None:
        error = error or ErrorShape()
        self.failure = reported(str(error.code or ""), error.message or "")


_TEXT: PartKey = ("text", 0)
_ITEM_TYPES = frozenset({"message", "reasoning"})

_HANDLERS: dict[str, Callable[[ResponseReader, object], list[Event]]] = {
    "response.output_item.added": ResponseReader._added,  # noqa: SLF001 - its own table
    "response.output_text.delta": ResponseReader._text_delta,  # noqa: SLF001
    "response.refusal.delta": ResponseReader._text_delta,  # noqa: SLF001
    "response.reasoning_summary_text.delta": ResponseReader._reasoning_delta,  # noqa: SLF001
    "response.reasoning_text.delta": ResponseReader._reasoning_delta,  # noqa: SLF001
    "response.output_item.done": ResponseReader._item_done,  # noqa: SLF001
    "response.completed": ResponseReader._completed,  # noqa: SLF001
    "response.incomplete": ResponseReader._incomplete,  # noqa: SLF001
    "response.failed": ResponseReader._failed,  # noqa: SLF001
    "error": ResponseReader._error,  # noqa: SLF001
}


def _whole(item: Item) -> list[tuple[PartKey, str]]:
    if item.type == "message":
        return [(_TEXT, part.text or part.refusal or "") for part in item.content or []]
    kind, parts = ("summary", item.summary) if item.summary else ("content", item.content)
    return [((kind, number), part.text or "") for number, part in enumerate(parts or [])]


def _usage(response: Response) -> list[Event]:
    usage = response.usage
    if usage is None:
        return []
    read, written = usage.input_tokens_details, usage.output_tokens_details
    return [
        Usage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_input_tokens=(read and read.cached_tokens) or 0,
            reasoning_output_tokens=(written and written.reasoning_tokens) or 0,
        )
    ]
