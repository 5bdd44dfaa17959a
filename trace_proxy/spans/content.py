"""What spans say beyond times, counts and states, when `--record-content` is on.

Off, which is the default, there is no `Content` and nobody asks for one but with a
look at None; turns are then plain `Turns`. On, prompts, answers and tool calls stand under
the keys of the conventions for generative AI, which products render; params, results and
errors of other requests, for which there are none, under `trace_proxy.content.*`. Each is
cut to what a span may hold, and stays a whole JSON document where it is one.

It records for people who look at their own machine; it redacts nothing.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import UNSET

from trace_proxy.context.ids import Ids
from trace_proxy.context.span_record import SpanRecord
from trace_proxy.protocol.envelope import CoreMessage
from trace_proxy.spans import semconv
from trace_proxy.spans.turns import CORE_NAME, Ended, EndedTool, EndedTurn, Turns
from trace_proxy.state.connection import RequestSpan
from trace_proxy.state.core_session import CoreSession

_UTF8_BYTES: Final = 4
"""Of one character, at most: so much of a text is decoded before it is cut."""

_PROMPTS_KEPT: Final = 1024
"""Of turns that were asked for and have not ended."""

_ARGUMENTS: Final = ("command", "cwd", "changes", "arguments", "query", "prompt", "path")
_RESULTS: Final = ("aggregatedOutput", "result", "contentItems", "error", "agentsStates")
"""Members of items that say what a tool was to do, and what came of it."""


class _Params(msgspec.Struct):
    item: dict[str, Any]


class _ItemNotification(msgspec.Struct):
    params: _Params


class _Text(msgspec.Struct):
    type: str = ""
    text: str = ""


class _Input(msgspec.Struct):
    input: list[_Text] = msgspec.field(default_factory=list)


_ITEM = msgspec.json.Decoder(_ItemNotification)
_INPUT = msgspec.json.Decoder(_Input)


def messages_json(role: str, text: str, limit_chars: int) -> str:
    """One message with one text, as `gen_ai.input.messages` and its kin have it."""
    end: dict[str, str] = {"finish_reason": "stop"} if role == "assistant" else {}

    def document(kept: str) -> object:
        return [{"role": role, "parts": [{"type": "text", "content": kept}], **end}]

    return fitting(document, text, limit_chars)


def fitting(document: Callable[[str], object], text: str, limit_chars: int) -> str:
    """A document with as much of a text in it as has room; empty where not even none has."""
    kept = text[:limit_chars]
    while True:
        encoded = msgspec.json.encode(document(kept)).decode()
        excess = len(encoded) - limit_chars
        if excess <= 0:
            return encoded
        if not kept:
            return ""
        kept = kept[: max(len(kept) - excess, 0)]  # what is escaped takes more: once again


class Content:
    """Puts content on spans.

    Args:
        limit_chars: Of one attribute value; what is longer is cut.
    """

    __slots__ = ("_prompts", "limit_chars")

    def __init__(self, limit_chars: int) -> None:
        self.limit_chars = limit_chars
        self._prompts: dict[int, str] = {}

    def __repr__(self) -> str:
        return f"<Content limit_chars={self.limit_chars}>"

    def text(self, raw: bytes) -> str:
        """The beginning of a text, JSON as it came."""
        head = raw[: self.limit_chars * _UTF8_BYTES]
        return head.decode(errors="replace")[: self.limit_chars]

    def of_request(self, span: RequestSpan, params: bytes | None) -> RequestSpan:
        """The same span with its params, and attributes of its own to add the answer to."""
        if not span.context.sampled:
            return span
        attributes = span.attributes.copy()
        if span.turn is not None:
            self._prompt(span.turn.span_id, params or b"{}")
        elif params is not None:
            attributes[semconv.CONTENT_PARAMS] = self.text(params)
        return msgspec.structs.replace(span, attributes=attributes)

    def _prompt(self, turn_span: int, params: bytes) -> None:
        """Keep what a turn was asked, until it ends."""
        try:
            said = "\n".join([each.text for each in _INPUT.decode(params).input])
        except msgspec.DecodeError:
            return
        if len(self._prompts) >= _PROMPTS_KEPT:
            del self._prompts[next(iter(self._prompts))]
        self._prompts[turn_span] = said[: self.limit_chars]

    def of_answer(self, span: RequestSpan, message: CoreMessage) -> None:
        """Add what the core answered to a span from `of_request`."""
        if not span.context.sampled:
            return
        if message.result is not UNSET:
            if span.turn is None:
                span.attributes[semconv.CONTENT_RESULT] = self.text(bytes(message.result))
        elif message.error is not UNSET:
            span.attributes[semconv.CONTENT_ERROR] = self.text(bytes(message.error))

    def of_approval(self, record: SpanRecord, params: bytes, answer: bytes) -> None:
        """Add what was asked, and what the client said."""
        record.attributes[semconv.CONTENT_PARAMS] = self.text(params)
        record.attributes[semconv.CONTENT_RESULT] = self.text(answer)

    def of_tool(self, record: SpanRecord, line: bytes) -> None:
        """Add what a tool was to do, and what came of it."""
        item = _ITEM.decode(line).params.item
        for key, members in (
            (semconv.TOOL_ARGUMENTS, _ARGUMENTS),
            (semconv.TOOL_RESULT, _RESULTS),
        ):
            said = {name: item[name] for name in members if item.get(name) is not None}
            if said:
                record.attributes[key] = self.json(said)

    def of_turn(self, record: SpanRecord, answer: str) -> None:
        """Add what a turn was asked, and what its agent said."""
        prompt = self._prompts.pop(record.context.span_id, "")
        for key, role, text in (
            (semconv.INPUT_MESSAGES, "user", prompt),
            (semconv.OUTPUT_MESSAGES, "assistant", answer),
        ):
            if text:
                record.attributes[key] = messages_json(role, text, self.limit_chars)

    def json(self, document: dict[str, Any]) -> str:
        """A document in JSON; if it is too long, its beginning as a text in one."""
        whole = msgspec.json.encode(document).decode()
        if len(whole) <= self.limit_chars:
            return whole
        return fitting(lambda kept: {"cut": kept}, whole, self.limit_chars)


class RecordingTurns(Turns):
    """`Turns` that also keep the agent's text and what tools were called with."""

    __slots__ = ("_content", "_texts")

    def __init__(self, ids: Ids, content: Content, core_name: str = CORE_NAME) -> None:
        super().__init__(ids, core_name)
        self._content = content
        self._texts: dict[str, str] = {}

    def delta(self, turn_id: str, text: str, now_ns: int) -> None:
        """Count a delta, and keep its text as long as there is room."""
        super().delta(turn_id, text, now_ns)
        turn = self.get(turn_id)
        kept = self._texts.get(turn_id, "")
        limit = self._content.limit_chars
        if turn is not None and turn.context.sampled and len(kept) < limit:
            self._texts[turn_id] = (kept + text)[:limit]

    def observe(self, line: bytes, core: CoreSession, now_ns: int) -> Ended:
        """Observe; a tool call that ended takes along what it was about."""
        ended = super().observe(line, core, now_ns)
        if isinstance(ended, EndedTool) and ended.record is not None:
            self._content.of_tool(ended.record, line)
        return ended

    def end(self, turn_id: str, status: str, now_ns: int, why: str = "") -> EndedTurn | None:
        """End a turn; what was said in it goes onto its span, the last of the records."""
        ended = super().end(turn_id, status, now_ns, why)
        text = self._texts.pop(turn_id, "")
        if ended is not None and ended.records:
            self._content.of_turn(ended.records[-1], text)
        return ended
