"""What spans say beyond times, counts and states, when `--record-content` is on.

Off, which is the default, there is no `Content` and nobody asks for one but with a
look at None; turns are then plain `Turns`. On, params, results, errors, the agent's
text, tool calls and approvals are kept as `trace_proxy.content.*`, each cut to what a
span may hold. It records for people who look at their own machine; it redacts nothing.
"""

from typing import Final

import msgspec
from msgspec import UNSET

from trace_proxy.context.ids import Ids
from trace_proxy.context.span_record import SpanRecord
from trace_proxy.protocol.envelope import CoreMessage
from trace_proxy.spans import semconv
from trace_proxy.spans.turns import EndedTurn, Turns
from trace_proxy.state.connection import RequestSpan
from trace_proxy.state.core_session import CoreSession

_UTF8_BYTES: Final = 4
"""Of one character, at most: so much of a text is decoded before it is cut."""


class _Params(msgspec.Struct):
    item: msgspec.Raw


class _ItemNotification(msgspec.Struct):
    params: _Params


_ITEM = msgspec.json.Decoder(_ItemNotification)


class Content:
    """Puts content on spans.

    Args:
        limit_chars: Of one attribute value; what is longer is cut.
    """

    __slots__ = ("limit_chars",)

    def __init__(self, limit_chars: int) -> None:
        self.limit_chars = limit_chars

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
        if params is not None:
            attributes[semconv.CONTENT_PARAMS] = self.text(params)
        return msgspec.structs.replace(span, attributes=attributes)

    def of_answer(self, span: RequestSpan, message: CoreMessage) -> None:
        """Add what the core answered to a span from `of_request`."""
        if not span.context.sampled:
            return
        if message.result is not UNSET:
            span.attributes[semconv.CONTENT_RESULT] = self.text(bytes(message.result))
        elif message.error is not UNSET:
            span.attributes[semconv.CONTENT_ERROR] = self.text(bytes(message.error))

    def of_approval(self, record: SpanRecord, params: bytes, answer: bytes) -> None:
        """Add what was asked, and what the client said."""
        record.attributes[semconv.CONTENT_PARAMS] = self.text(params)
        record.attributes[semconv.CONTENT_RESULT] = self.text(answer)


class RecordingTurns(Turns):
    """`Turns` that also keep the agent's text and the items of tool calls."""

    __slots__ = ("_content", "_texts")

    def __init__(self, ids: Ids, content: Content) -> None:
        super().__init__(ids)
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

    def observe(
        self, line: bytes, core: CoreSession, now_ns: int
    ) -> EndedTurn | SpanRecord | None:
        """Observe; a tool call that ended takes its item along."""
        ended = super().observe(line, core, now_ns)
        if isinstance(ended, SpanRecord):
            item = _ITEM.decode(line).params.item
            ended.attributes[semconv.CONTENT_ITEM] = self._content.text(bytes(item))
        return ended

    def end(self, turn_id: str, status: str, now_ns: int, why: str = "") -> EndedTurn | None:
        """End a turn; its text goes onto its span, the last of the records."""
        ended = super().end(turn_id, status, now_ns, why)
        text = self._texts.pop(turn_id, "")
        if ended is not None and ended.records and text:
            ended.records[-1].attributes[semconv.CONTENT_OUTPUT] = text
        return ended
