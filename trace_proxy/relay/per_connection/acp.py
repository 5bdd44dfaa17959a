"""An ACP agent behind its client: each prompt is a turn, and what it does hangs below.

    session/prompt asked -> RUNNING --answered | a side is gone--> gone
    tool_call -> running --completed | failed | its prompt is over--> gone

A session has one prompt at a time; what is told of one that has none (`session/load`
repeats a whole history) is no work of ours. `spans.turns` does the same for the
app-server, whose turns have ids and outlive their request.
"""

from typing import Final

import msgspec
from msgspec import UNSET

from core_server.jsonrpc.messages import Message
from trace_proxy.context.span_record import SpanContext, SpanRecord
from trace_proxy.protocol import acp, mcp
from trace_proxy.protocol.envelope import CoreMessage
from trace_proxy.protocol.meta import meta_of
from trace_proxy.protocol.methods import foreign
from trace_proxy.protocol.program import INITIALIZE, agent_of
from trace_proxy.relay.board import Board
from trace_proxy.relay.per_connection.pairs import Pair
from trace_proxy.relay.per_connection.watch import FINE, Verdict, Watch
from trace_proxy.spans import requests as request_spans
from trace_proxy.spans import semconv
from trace_proxy.spans.content import messages_json
from trace_proxy.spans.turn_spans import (
    AGENT_NAME_CHARS,
    Agent,
    Tool,
    Turn,
    Usage,
    tool_error,
    tool_record,
    turn_record,
)
from trace_proxy.spans.turns import ITEMS_PER_TURN, EndedTool, EndedTurn
from trace_proxy.state.connection import Pending
from trace_proxy.state.server_requests import ServerRequest

SESSIONS_KEPT: Final = 1024
"""Whose model is remembered, of one client; editors open a handful."""

_DONE: Final = frozenset({"completed", "failed"})
_CHUNK: Final = "agent_message_chunk"
_STARTED: Final = frozenset({"tool_call", "tool_call_update"})


class _Prompt:
    """A prompt that runs.

    Attributes:
        turn: What its span is made of.
        pending: Its request.
        asked: What the client said, if that may be recorded.
        text: What the agent said, the same.
        told: Of each running tool, what it does and what came of it, if that may be recorded.
    """

    __slots__ = ("asked", "pending", "text", "told", "turn")

    def __init__(self, turn: Turn, pending: Pending, asked: str) -> None:
        self.turn = turn
        self.pending = pending
        self.asked = asked
        self.text = ""
        self.told: dict[str, dict[str, bytes]] = {}


class AcpWatch(Watch):
    """See the module."""

    METHODS = acp.METHODS
    SERVER_REQUESTS = acp.SERVER_REQUESTS
    NEW_WORK = acp.NEW_WORK
    WATCHED = acp.METHODS
    CARRIES_CONTEXT = True

    def __init__(self, board: Board, pair: Pair, targets: set[str]) -> None:
        super().__init__(board, pair, targets)
        self._prompts: dict[str, _Prompt] = {}
        self._agent = ""
        self._asked = ""
        self._models: dict[str, str] = {}

    # ---- the client's requests

    def about(self, pending: Pending, params: bytes | None) -> None:
        """Which session; a prompt gets its turn's context, so that it can be handed on."""
        pending.thread = acp.session_of(params)
        content = self.board.content
        self._asked = "" if content is None or params is None else acp.prompt_text(params)
        span = pending.span
        assert span is not None
        if pending.method == acp.PROMPT and pending.thread is not None:
            turn = request_spans.below(span.context, "invoke_agent", self.board.ids)
            pending.span = msgspec.structs.replace(span, turn=turn)

    def sent(self, pending: Pending) -> None:
        """A prompt runs from now on."""
        span = pending.span
        if span is None or span.turn is None or pending.thread is None:
            return
        turn = Turn(
            pending.thread,
            f"{span.turn.span_id:016x}",
            self.pair.core,
            span.turn,
            span.context,
            span.start_ns,
        )
        turn.agent_name = self._agent or self.board.core_name
        turn.agent = Agent(self._models.get(pending.thread, ""))
        turn.asker = span.attributes
        self._prompts[pending.thread] = _Prompt(turn, pending, self._asked)

    def answered(self, pending: Pending, message: CoreMessage) -> Verdict:
        """A prompt is over; an agent has said its name."""
        if message.result is not UNSET:
            self._note(pending, bytes(message.result))
        prompt = self._of(pending)
        if prompt is None:
            return FINE
        if message.result is UNSET:
            self._end(prompt, "failed")
            return FINE
        done = acp.prompted(bytes(message.result))
        turn = prompt.turn
        if done.usage is not None:
            used = done.usage
            turn.consume(
                Usage(
                    used.input_tokens,
                    used.output_tokens,
                    used.cached_read_tokens or 0,
                    used.thought_tokens or 0,
                )
            )
        known = done.stop_reason in acp.STOP_REASONS
        status = "interrupted" if done.stop_reason == "cancelled" else "completed"
        self._end(prompt, status, stop=done.stop_reason if known else "other")
        return FINE

    def _note(self, pending: Pending, result: bytes) -> None:
        """Learn the agent's name, and which model a session uses."""
        if pending.method == INITIALIZE:
            self._agent = agent_of(result)[:AGENT_NAME_CHARS]
        elif pending.method in acp.OPENING:
            opened = acp.opened(result)
            session = opened.session_id or pending.thread
            if session and opened.model and len(self._models) < SESSIONS_KEPT:
                self._models[session] = opened.model

    def lost(self, pending: Pending, why: str) -> None:
        """A prompt that was not answered."""
        prompt = self._of(pending)
        if prompt is not None:
            self._end(prompt, "interrupted", why=why or request_spans.CONNECTION_LOST)

    def ended(self, why: str) -> None:
        """What still runs is interrupted."""
        for prompt in list(self._prompts.values()):
            self._end(prompt, "interrupted", why=why)

    def _of(self, pending: Pending) -> _Prompt | None:
        prompt = None if pending.thread is None else self._prompts.get(pending.thread)
        return prompt if prompt is not None and prompt.pending is pending else None

    def _end(self, prompt: _Prompt, status: str, *, stop: str = "", why: str = "") -> None:
        board, turn = self.board, prompt.turn
        del self._prompts[turn.thread]
        records: tuple[SpanRecord, ...] = ()
        if turn.context.sampled:
            left = [self._tool_record(prompt, each, why or "interrupted") for each in turn.tools]
            records = (*left, self._turn_record(prompt, status, stop, why))
        board.end_turn(EndedTurn(turn, status, records))

    def _turn_record(self, prompt: _Prompt, status: str, stop: str, why: str) -> SpanRecord:
        record = turn_record(prompt.turn, status, self.board.now_ns, why)
        if stop:
            record.attributes[semconv.STOP_REASON] = stop
        content = self.board.content
        if content is not None:
            limit = content.limit_chars
            asked = messages_json("user", prompt.asked, limit)
            record.attributes[semconv.INPUT_MESSAGES] = asked
            said = messages_json("assistant", prompt.text, limit)
            record.attributes[semconv.OUTPUT_MESSAGES] = said
        return record

    # ---- what the agent tells

    def heard(self, message: Message, params: bytes, line: bytes) -> None:  # noqa: ARG002 - params do
        """Text and tools of a prompt that runs."""
        update = acp.update_of(params) if message.method == acp.UPDATE else None
        prompt = None if update is None else self._prompts.get(update.session_id)
        if update is None or prompt is None:
            return
        change = update.update
        if change.session_update == _CHUNK:
            self._text(prompt, acp.text_of(change))
        elif change.session_update in _STARTED and change.tool_call_id:
            self._tool(prompt, change, params)

    def _text(self, prompt: _Prompt, text: str) -> None:
        turn, content = prompt.turn, self.board.content
        turn.delta(len(text.encode()), self.board.now_ns)
        if content is not None and turn.context.sampled:
            prompt.text = (prompt.text + text)[: content.limit_chars]

    def _tool(self, prompt: _Prompt, change: acp.Change, params: bytes) -> None:
        """A tool call begins, or is done; some are told of only when they are."""
        turn, tool_id = prompt.turn, change.tool_call_id
        if tool_id not in turn.tools:
            ended_before = change.session_update != "tool_call"
            if ended_before or len(turn.tools) >= ITEMS_PER_TURN:
                return
            context = request_spans.below(turn.context, "execute_tool", self.board.ids)
            turn.tools[tool_id] = Tool(acp.tool_kind(change.kind), context, self.board.now_ns)
            turn.time.tools(+1, self.board.now_ns)
        if self.board.content is not None:
            done, result = acp.told_of(params)
            told = {semconv.TOOL_ARGUMENTS: done, semconv.TOOL_RESULT: result}
            prompt.told.setdefault(tool_id, {}).update({k: v for k, v in told.items() if v})
        if change.status not in _DONE:
            return
        tool, sampled = turn.tools[tool_id], turn.context.sampled
        record = self._tool_record(prompt, tool_id, change.status or "") if sampled else None
        duration_s = (self.board.now_ns - tool.start_ns) / 1e9
        error = tool_error(change.status or "", None)
        self.board.observed(EndedTool(tool.name, error, duration_s, record))
        turn.time.tools(-1, self.board.now_ns)
        del turn.tools[tool_id]
        prompt.told.pop(tool_id, None)

    def _tool_record(self, prompt: _Prompt, tool_id: str, status: str) -> SpanRecord:
        turn, content = prompt.turn, self.board.content
        record = tool_record(turn, tool_id, turn.tools[tool_id], self.board.now_ns, status, None)
        if content is not None:
            for name, told in prompt.told.get(tool_id, {}).items():
                record.attributes[name] = content.text(told)
        return record

    def told(self, message: Message, params: bytes) -> None:
        """The client cancels: a moment, linked to the prompt that it ends."""
        if message.method != acp.CANCEL:
            return
        board, connection = self.board, self.pair.connection
        session = acp.session_of(params)
        span = request_spans.begin_request(
            connection, acp.CANCEL, None, board.now_ns, board.ids, meta_of(params)
        )
        prompt = None if session is None else self._prompts.get(session)
        traits = foreign(acp.CANCEL, known=True)
        pending = Pending(connection, b"null", traits, 0, session, span)
        link = None if prompt is None else prompt.turn.context
        core = self.pair.core.index
        record = request_spans.end_request(pending, board.now_ns, core=core, link=link)
        if record is not None:
            del record.attributes[semconv.JSONRPC_REQUEST_ID]  # it has none
            board.end_span(record)

    # ---- what the agent asks

    def session_of(self, params: bytes) -> str | None:
        """The session."""
        return acp.session_of(params)

    def asker(self, method: str, params: bytes) -> SpanContext | None:
        """The tool call that a permission is for, else the prompt."""
        session = acp.session_of(params)
        prompt = None if session is None else self._prompts.get(session)
        if prompt is None:
            return None
        tool = None
        if method == acp.PERMISSION:
            tool = prompt.turn.tools.get(acp.permission_of(params).tool_call.tool_call_id)
        return prompt.turn.context if tool is None else tool.context

    def decision(self, method: str, params: bytes, result: bytes | None) -> str:
        """Permissions and elicitations have words for it."""
        if method == acp.PERMISSION:
            return acp.outcome_of(params, result)
        if method == "elicitation/create":
            return mcp.elicited(result)
        return super().decision(method, params, result)

    def waits(self, asked: ServerRequest, change: int) -> None:
        """While a person is asked, the time is nobody else's."""
        prompt = None if asked.thread is None else self._prompts.get(asked.thread)
        if prompt is not None and asked.method in acp.OF_PEOPLE:
            prompt.turn.time.asked(change, self.board.now_ns)

    def deadline(self) -> list[bytes]:
        """Cancel the prompts that run; each is then answered with `cancelled`."""
        for prompt in self._prompts.values():
            prompt.turn.ended_by = request_spans.DRAIN
        return [acp.cancel(session) for session in self._prompts]
