"""Lines in, answers out: THE place where exceptions become wire errors.

A line becomes a message, a message a method, params of its type and a handler's call.
Plain handlers are called at once, without a task; coroutines get one each. Requests that
name the same thread are served in the order in which they came, so a client may send
`thread/resume` and `turn/start` in one go; others do not wait for each other.

The reader is paused while more than `MAX_IN_FLIGHT` coroutines run or more than
`MAX_UNREAD_BYTES` of output is not taken. No handler waits for the client to send
something (`command/exec`, which may, is bounded by itself and not counted), so what is
in flight ends by itself; and see `stdio` for why unread output cannot deadlock us.
"""

import asyncio
import contextlib
import inspect
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import msgspec
from msgspec import UNSET

from core_server.context import Context, Durable, Reply, trace_of
from core_server.errors import (
    WireError,
    draining,
    invalid_request,
    owned_elsewhere,
    storage_failed,
)
from core_server.handlers.loading import claim
from core_server.handlers.table import ASIDE, HANDLERS, IDENTIFIED, ON_LOADED, TRACED
from core_server.jsonrpc import codec, codes
from core_server.jsonrpc.framing import Oversized
from core_server.jsonrpc.messages import Message
from core_server.logs import logger
from core_server.outgoing.outbox import Outbox
from core_server.protocol.methods import FLEET_METHODS, METHODS, REFUSED, SAYS_NOTHING
from core_server.protocol.wire import encode
from core_server.runtime.params import ParamsReader
from core_server.session.lifecycle import Lifecycle
from core_server.storage.base import StorageError, ThreadOwnedError

MAX_IN_FLIGHT: Final = 1024
"""Coroutine handlers at once; each waits for the store or the disk for milliseconds."""

MAX_UNREAD_BYTES: Final = 64 * 1024 * 1024
"""Answers that nobody took. Twenty thousand small requests written in one go, before
anything is read, need 2 MiB; 64 MiB let that work for large answers as well."""


class Route(msgspec.Struct, frozen=True):
    """All that is needed to serve a method."""

    name: str
    reader: ParamsReader
    handler: Callable[..., Any]
    traced: bool
    identified: bool
    new_work: bool
    experimental: bool
    counted: bool


class Call(msgspec.Struct, frozen=True):
    """A request that is about to be served."""

    id: bytes
    route: Route
    params: msgspec.Struct | None
    message: Message
    lane: str


def _routes() -> dict[str, Route]:
    return {
        name: Route(
            name,
            ParamsReader(name, method),
            (HANDLERS | TRACED | IDENTIFIED)[name],
            name in TRACED,
            name in IDENTIFIED,
            method.new_work,
            method.experimental,
            name != "command/exec",
        )
        for name, method in {**METHODS, **FLEET_METHODS}.items()
    }


class Dispatcher:
    """Serves one connection.

    Args:
        context: For the handlers.
        outbox: Where answers go.
        lifecycle: Whether new work is admitted.
        group: Parent of the tasks.
        on_response: Takes id and message of the client's answers.
        max_message_bytes: Said in the error for a longer one.
    """

    def __init__(
        self,
        context: Context,
        outbox: Outbox,
        lifecycle: Lifecycle,
        group: asyncio.TaskGroup,
        on_response: Callable[[bytes, Message], None],
        max_message_bytes: int,
    ) -> None:
        self._context = context
        self._outbox = outbox
        self._lifecycle = lifecycle
        self._group = group
        self._on_response = on_response
        self._max_message_bytes = max_message_bytes
        self._routes = _routes()
        self._busy: dict[str, deque[Call]] = {}
        self._held: list[Call] | None = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._counted = 0
        self._queued = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def __repr__(self) -> str:
        return f"<Dispatcher in_flight={len(self._tasks)} busy={len(self._busy)}>"

    @property
    def full(self) -> bool:
        """Whether reading shall pause."""
        held = len(self._held) if self._held is not None else 0
        return (
            self._counted + self._queued + held > MAX_IN_FLIGHT
            or self._outbox.waiting_bytes > MAX_UNREAD_BYTES
        )

    @property
    def running(self) -> int:
        """Requests in flight."""
        return len(self._tasks)

    def store_is_open(self) -> None:
        """Serve what came while the store was being opened."""
        held, self._held = self._held or [], None
        for call in held:
            self._enter(call)
        self._outbox.less()

    async def idle(self) -> None:
        """Wait until no request is unanswered."""
        await self._idle.wait()

    def cancel(self) -> None:
        """Give up all requests in flight; they get no answer."""
        for task in self._tasks:
            task.cancel()

    def line(self, line: bytes | Oversized) -> None:
        """Serve one line; never raises."""
        if isinstance(line, Oversized):
            self._refuse_oversized(line)
            return
        if not line or line.isspace():
            return
        try:
            message = codec.decode(line)
            if message.jsonrpc is not UNSET:
                self._context.gate.strict = True
            if message.method is UNSET:
                self._response(message)
            elif message.id is not UNSET:
                self._request(codec.request_id(message), message, message.method)
        except codec.MalformedError as error:
            if not error.is_response:
                self._outbox.post(codec.error(error.id, error.code, str(error)))

    def _response(self, message: Message) -> None:
        """Take an answer; one to null, or to nothing that was asked, is passed over."""
        with contextlib.suppress(codec.MalformedError):
            self._on_response(codec.request_id(message), message)

    def _request(self, request_id: bytes, message: Message, name: str) -> None:
        try:
            call = self._prepare(request_id, message, name)
        except WireError as error:
            self._outbox.post(_failed(request_id, error))
            return
        if self._held is not None and name != "initialize":
            self._held.append(call)
        else:
            self._enter(call)

    def _prepare(self, request_id: bytes, message: Message, name: str) -> Call:
        """Checks, in the reference's order."""
        route = self._routes.get(name)
        if route is None:
            raise self._unserved(name)
        gate = self._context.gate
        params = route.reader.read(message.params)
        if name != "initialize":
            gate.admit(name, experimental=route.experimental)
            if not gate.experimental:
                route.reader.check_experimental(message.params)
            if route.new_work and not self._lifecycle.admits_work:
                raise draining()
        lane = "" if name in ASIDE else getattr(params, "thread_id", "")
        return Call(request_id, route, params, message, lane)

    def _unserved(self, name: str) -> WireError:
        """What a method is answered that is not ours, and why where it is the reference's."""
        if name in SAYS_NOTHING:
            self._context.gate.admit(name, experimental=False)
            return invalid_request(SAYS_NOTHING[name])
        why = REFUSED.get(name)
        data = None if why is None else {"reason": "notServed", "detail": why}
        return WireError(codes.METHOD_NOT_FOUND, f"Method not found: {name[:256]}", data)

    def _enter(self, call: Call) -> None:
        if (waiting := self._busy.get(call.lane)) is not None:
            waiting.append(call)
            self._queued += 1
        else:
            self._serve(call)

    def _serve(self, call: Call) -> None:
        """Call the handler; a coroutine goes on in a task of its own."""
        if self._is_unclaimed(call):
            self._start(call, self._claim(call))
            return
        try:
            outcome = self._call(call)
        except Exception as error:  # noqa: BLE001 - the boundary
            self._fail(call, error)
            return
        if inspect.iscoroutine(outcome):
            self._start(call, outcome)
        else:
            self._answer(call, outcome)

    def _call(self, call: Call) -> Any:
        route, context = call.route, self._context
        if route.traced:
            return route.handler(context, call.params, trace_of(call.message.trace))
        if route.identified:
            return route.handler(context, call.params, call.id, trace_of(call.message.trace))
        return route.handler(context, call.params)

    def _is_unclaimed(self, call: Call) -> bool:
        """Whether it needs a loaded thread that a fleet may have moved: here, or away."""
        if not self._context.store.spans_machines or call.route.name not in ON_LOADED:
            return False
        thread = self._context.threads.get(call.lane)
        return thread is None or thread.broken

    async def _claim(self, call: Call) -> Any:
        """Load the thread, so that a dead host's is taken over, and then serve the call.

        Raises:
            ThreadOwnedError: a living host owns it.
        """
        await claim(self._context, call.lane)
        outcome = self._call(call)
        return await outcome if inspect.isawaitable(outcome) else outcome

    def _start(self, call: Call, work: Awaitable[Any]) -> None:
        if call.lane:
            self._busy[call.lane] = deque()
        self._counted += call.route.counted
        self._idle.clear()
        task = self._group.create_task(self._finish(call, work))
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._ended(call, task))

    async def _finish(self, call: Call, work: Awaitable[Any]) -> None:
        try:
            outcome = await work
        except Exception as error:  # noqa: BLE001 - the boundary
            self._fail(call, error)
            return
        self._answer(call, outcome)

    def _ended(self, call: Call, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._counted -= call.route.counted
        if call.lane:
            waiting = self._busy.pop(call.lane)
            while waiting:
                self._queued -= 1
                self._serve(waiting.popleft())
                if call.lane in self._busy:
                    self._busy[call.lane].extend(waiting)
                    break
        if not self._tasks:
            self._idle.set()
        self._outbox.less()

    def _answer(self, call: Call, outcome: msgspec.Struct | Reply) -> None:
        """Post the answer; what shall follow it is begun whatever became of it. Never raises."""
        reply = outcome if isinstance(outcome, Reply) else Reply(outcome)
        try:
            line = codec.result(call.id, encode(reply.result))
        except Exception as error:  # noqa: BLE001 - the boundary: this is an answer as well
            self._fail(call, error)
        else:
            unwritten = None if reply.written is None else partial(_unwritten, call.id)
            self._outbox.post(line, call.lane, reply.written, unwritten, firm=True)
        if reply.then is not None:
            try:
                reply.then()
            except Exception as error:  # noqa: BLE001 - the boundary
                logger().error("core.follow_up_failed", method=call.route.name, exc_info=error)

    def _fail(self, call: Call, error: Exception) -> None:
        match error:
            case WireError():
                wire = error
            case ThreadOwnedError():
                wire = _owned(error)
            case StorageError():
                logger().error("core.storage_failed", method=call.route.name, error=str(error))
                wire = storage_failed(str(error))
            case _:
                logger().error("core.handler_failed", method=call.route.name, exc_info=error)
                wire = WireError(codes.INTERNAL_ERROR, "Internal error; see the server's log")
        self._outbox.post(_failed(call.id, wire), call.lane, firm=True)

    def _refuse_oversized(self, line: Oversized) -> None:
        limit = self._max_message_bytes
        message = f"Invalid request: message of {line.size} bytes is longer than {limit} bytes"
        data = {"reason": "messageTooLarge", "limitBytes": limit}
        self._outbox.post(
            codec.error(codec.id_in_head(line.head), codes.INVALID_REQUEST, message, data)
        )


def _owned(error: ThreadOwnedError) -> WireError:
    if error.url:
        return owned_elsewhere(str(error), error.url, error.epoch)
    data = {"reason": "threadOwned", "owner": error.owner, "retryable": True}
    return WireError(codes.INVALID_REQUEST, str(error), data)


def _unwritten(request_id: bytes, written: Durable) -> bytes:
    """The answer to a request whose write failed; nothing of it was done."""
    error = None if written.cancelled() else written.exception()
    if isinstance(error, ThreadOwnedError):  # its new owner can do it
        return _failed(request_id, _owned(error))
    return _failed(request_id, storage_failed("the write failed"))


def _failed(request_id: bytes, error: WireError) -> bytes:
    words = str(error).encode(errors="replace").decode()
    return codec.error(request_id, error.code, words, error.data)
