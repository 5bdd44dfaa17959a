"""Turns: start, steer, interrupt; compaction and the user's own commands are turns too."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from msgspec import UNSET

from core_server.context import Context, Reply, Trace, Work
from core_server.engines.base import EngineError, codex_error_info
from core_server.errors import WireError, invalid_request, overloaded
from core_server.handlers.settings import override
from core_server.jsonrpc import codes
from core_server.protocol.items import (
    InputItem,
    TextInput,
    ToolMessageItem,
    UserInput,
    UserMessageItem,
)
from core_server.protocol.threads import (
    CancelParams,
    SampleParams,
    SampleResult,
    ShellCommandParams,
)
from core_server.protocol.turns import (
    TurnError,
    TurnInterruptParams,
    TurnResult,
    TurnStartParams,
    TurnSteerParams,
    TurnSteerResult,
)
from core_server.protocol.wire import Nothing, ThreadParams, encode
from core_server.records import item_row, preview_of, turn_row
from core_server.session.thread import ThreadMachine
from core_server.session.turn import TurnMachine
from core_server.storage.base import PutItem, PutTurn

MAX_TURNS: Final = 1024
"""At once; each may hold a connection to a model, or a command with its processes."""

MAX_ASIDES: Final = 64
"""Samples aside from turns at once; each holds a connection to a model."""

MAX_PROMPT_BYTES: Final = 4000
"""Of such a sample: the reference's limit."""

MAX_INPUT_CHARACTERS: Final = 1024 * 1024
"""The reference's limit, over all texts of an input."""


def start(context: Context, params: TurnStartParams, trace: Trace) -> Reply | Awaitable[Reply]:
    """`turn/start`: begin a turn, or join the one that runs."""
    thread = context.loaded(params.thread_id)
    thread.check_writable()
    _check_size(params.input)
    if thread.turn is not None and thread.turn.stopping:
        return _start_after(context, thread, params, trace)
    return _start(context, thread, params, trace)


async def _start_after(
    context: Context, thread: ThreadMachine, params: TurnStartParams, trace: Trace
) -> Reply:
    await context.turns.ended(thread)
    return _start(context, thread, params, trace)


def _start(
    context: Context, thread: ThreadMachine, params: TurnStartParams, trace: Trace
) -> Reply:
    if thread.turn is not None and thread.turn.is_review:
        # The reference says -32603; here that is a fault of ours, and this is the client's.
        raise invalid_request(
            "failed to submit turn input: ActiveTurnNotSteerable { turn_kind: Review }"
        )
    override(context, thread, params)
    entry = _entry(context, params)
    if thread.turn is not None:
        return _join(context, thread, thread.turn, entry)
    schema = None if params.output_schema is UNSET else bytes(params.output_schema).decode()
    work = Work(
        traceparent=trace.traceparent or "",
        tracestate=trace.tracestate or "",
        output_schema=None if schema == "null" else schema,
    )
    return begin(context, thread, work, lambda turn: TurnResult(turn.accepted()), entry)


def begin(
    context: Context,
    thread: ThreadMachine,
    work: Work,
    answer: Callable[[TurnMachine], msgspec.Struct],
    entry: InputItem | None = None,
) -> Reply:
    """Begin a turn: it and its input go to disk in one write, and it runs when answered.

    Raises:
        WireError: too many turns run.
    """
    if context.turns.running >= MAX_TURNS:
        raise overloaded(f"{MAX_TURNS} turns are running")
    entries = () if entry is None else (entry,)
    turn = TurnMachine(context.new_id(), thread.turns, time.time_ns() // 1_000_000, entries)
    turn.is_review = work.kind == "review"
    row = PutTurn(turn_row(thread.id, turn.ordinal, turn.running()))
    items = [PutItem(item_row(thread.id, turn.id, thread.next_item(), each)) for each in entries]
    thread.begin(turn, work.shown or "".join(map(preview_of, entries)))
    try:
        written = context.accepted[turn.id] = context.write(thread, row, *items)
        return Reply(answer(turn), written, lambda: context.turns.run(thread, turn, work))
    except Exception:
        # It is the thread's running turn already: it must end, or the thread is stuck for ever.
        turn.stop(TurnError("Internal error; see the server's log", "internalServerError"))
        context.turns.run(thread, turn, work)
        raise


def _join(context: Context, thread: ThreadMachine, turn: TurnMachine, entry: InputItem) -> Reply:
    turn.join(entry)
    row = item_row(thread.id, turn.id, thread.next_item(), entry)
    written = context.accepted[entry.id] = context.keep(thread, PutItem(row))
    return Reply(TurnResult(turn.accepted()), written, lambda: context.turns.wake(thread))


def steer(context: Context, params: TurnSteerParams) -> Reply:
    """`turn/steer`: more input for the running turn."""
    thread = context.loaded(params.thread_id)
    thread.check_writable()
    _check_size(params.input)
    turn = thread.turn
    if turn is None or turn.stopping:
        raise invalid_request("no active turn to steer")
    if turn.id != params.expected_turn_id:
        raise invalid_request(
            f"expected active turn id `{params.expected_turn_id}` but found `{turn.id}`"
        )
    if turn.is_review:
        raise _not_steerable()
    joined = _join(context, thread, turn, _entry(context, params))
    return Reply(TurnSteerResult(turn.id), joined.written, joined.then)


def _not_steerable() -> WireError:
    why = "cannot steer a review turn"
    error = TurnError(why, {"activeTurnNotSteerable": {"turnKind": "review"}})
    return WireError(codes.INVALID_REQUEST, why, msgspec.to_builtins(error))


def interrupt(context: Context, params: TurnInterruptParams) -> Reply:
    """`turn/interrupt`: end it now; commands of it are killed."""
    thread = context.loaded(params.thread_id)
    turn = thread.turn
    if turn is None:
        raise invalid_request("no active turn to interrupt")
    if turn.id != params.turn_id:
        raise invalid_request(f"expected active turn id {params.turn_id} but found {turn.id}")
    turn.stop()
    return Reply(Nothing(), then=lambda: context.turns.wake(thread))


def compact(context: Context, params: ThreadParams, trace: Trace) -> Reply:
    """`thread/compact/start`: a turn that summarises what was said."""
    work = Work("compact", traceparent=trace.traceparent or "", tracestate=trace.tracestate or "")
    return _alone(context, params.thread_id, work)


def shell(context: Context, params: ShellCommandParams, trace: Trace) -> Reply:
    """`thread/shellCommand`: a command of the user's own, in a turn."""
    if not params.command.strip():
        raise invalid_request("command must not be empty")
    work = Work(
        "shell",
        params.command,
        None if params.timeout_ms is None else params.timeout_ms / 1000,
        trace.traceparent or "",
        trace.tracestate or "",
    )
    return _alone(context, params.thread_id, work)


def _alone(context: Context, thread_id: str, work: Work) -> Reply:
    thread = context.loaded(thread_id)
    thread.check_writable()
    if thread.turn is not None:
        raise invalid_request(f"a turn is running: {thread.turn.id}; wait for it or interrupt it")
    return begin(context, thread, work, lambda _: Nothing())


async def sample(
    context: Context, params: SampleParams, request_id: bytes, trace: Trace
) -> SampleResult:
    """`thread/sample`: one more answer, aside from the turns.

    What the reference answers with -32603 (cancelled, the endpoint failed) is -32600 here:
    an internal error is a fault of this server.
    """
    thread = await _source(context, params)
    if len(context.asides) >= MAX_ASIDES:
        raise overloaded(f"{MAX_ASIDES} samples are being taken")
    known = encode(msgspec.json.decode(request_id))
    scope = context.asides[known] = asyncio.timeout(None)
    try:
        async with scope:
            return await context.turns.aside(thread, params, trace)
    except TimeoutError:
        if not scope.expired():
            raise
        raise invalid_request("sample canceled") from None
    except EngineError as error:
        info = codex_error_info(error.info, error.http_status)
        told = TurnError(str(error), info, error.details)
        raise WireError(codes.INVALID_REQUEST, str(error), msgspec.to_builtins(told)) from None
    finally:
        context.asides.pop(known, None)


async def _source(context: Context, params: SampleParams) -> ThreadMachine:
    """The thread to sample, when it is at the turn that the client knows as its last."""
    if (
        not params.expected_turn_id
        or not 0 < len(params.prompt.encode(errors="replace")) <= MAX_PROMPT_BYTES
    ):
        raise invalid_request(
            "thread/sample requires expectedTurnId and a prompt of at most 4000 bytes"
        )
    thread = context.threads.get(params.thread_id)
    if thread is None:
        raise invalid_request("thread/sample requires a loaded source")
    if thread.turn is not None:
        if params.allow_in_progress_turn and thread.turn.id == params.expected_turn_id:
            return thread
        raise invalid_request("sample source must be idle")
    rows = await context.store_of(thread).turns(thread.id)
    if not rows or rows[-1].turn_id != params.expected_turn_id:
        raise invalid_request("sample source turn must be the latest finished turn")
    return thread


def cancel_sample(context: Context, params: CancelParams) -> Nothing:
    """`thread/sample/cancel`: one that is over or was never asked for is no mistake."""
    if (scope := context.asides.pop(encode(params.request_id), None)) is not None:
        scope.reschedule(asyncio.get_running_loop().time())
    return Nothing()


def _entry(context: Context, params: TurnStartParams | TurnSteerParams) -> InputItem:
    now_ms = time.time_ns() // 1_000_000
    item_id = context.new_id()
    tool = params.tool_output if isinstance(params, TurnStartParams) else None
    if tool is not None:
        return ToolMessageItem(item_id, tool.name, tool.output, tool.namespace, now_ms, now_ms)
    client_id = params.client_user_message_id
    return UserMessageItem(item_id, client_id, params.input, now_ms, now_ms)


def _check_size(content: tuple[UserInput, ...]) -> None:
    actual = sum(len(part.text) for part in content if isinstance(part, TextInput))
    if actual > MAX_INPUT_CHARACTERS:
        raise WireError(
            codes.INVALID_PARAMS,
            f"Input exceeds the maximum length of {MAX_INPUT_CHARACTERS} characters.",
            {
                "input_error_code": "input_too_large",
                "max_chars": MAX_INPUT_CHARACTERS,
                "actual_chars": actual,
            },
        )
