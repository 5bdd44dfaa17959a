"""The lives of cores: greeted, filled with their threads, lost, restarted, given up.

A core that dies takes nobody with it: its requests are answered with an error, its
turns end as interrupted for who hears them, and as soon as it is back its threads are
resumed before the first request waiting for it goes out.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import UNSET

from trace_proxy.drain import ENDING, State
from trace_proxy.protocol import envelope, refusal
from trace_proxy.protocol.envelope import CoreMessage
from trace_proxy.relay.board import Board
from trace_proxy.relay.shared.initialize import Greetings
from trace_proxy.spans import requests as request_spans
from trace_proxy.spans.turn_spans import Turn
from trace_proxy.state.core_session import CoreSession, CoreState

CORE_LOST: Final = refusal.core_lost("The core died before it answered; try again.")
HOST_LOST: Final = refusal.core_lost(
    "The host that has the thread is gone or cannot be reached; try again."
)

RESUMES_AT_ONCE: Final = 32
"""Of a core that is back; the reference refuses or loses requests beyond 64 to 128."""

_encode = msgspec.json.Encoder().encode


REFERENCE_WINDOW: Final = 64
"""The reference server refuses or loses requests beyond 128 at a time: half of it is safe."""


class _Greeting(msgspec.Struct, rename="camel"):
    codex_home: str | None = None
    server_info: object = msgspec.UNSET


def _is_reference(greeting: bytes) -> bool:
    """Whether a core answered `initialize` as codex app-server does: no `serverInfo`."""
    try:
        hello = msgspec.json.decode(greeting, type=_Greeting)
    except msgspec.DecodeError:
        return False
    return hello.codex_home is not None and hello.server_info is msgspec.UNSET


CONFIGURATION: Final = 2
"""The exit code of a program whose options are wrong, by an old custom (and argparse's)."""

EARLY_S: Final = 2.0
"""Who exits with an error before has not started; a real core needs some 0.3 s."""

MAX_EARLY: Final = 2
"""Once may be an accident: a port, a lock, a disk that was full for a moment."""


class Restarts:
    """When a core that died may start again, and when it has failed for good.

    Args:
        min_s: First delay; it doubles.
        max_s: Longest delay.
        most: Restarts within the window before it is given up.
        window_s: The window.

    A core that says by its exit code that its options are wrong is not started again, nor
    one that could not start twice in a row: the third time would be no better.
    """

    __slots__ = ("_early", "_max_s", "_min_s", "_most", "_times", "_window_s")

    def __init__(self, *, min_s: float, max_s: float, most: int, window_s: float) -> None:
        self._min_s = min_s
        self._max_s = max_s
        self._most = most
        self._window_s = window_s
        self._times: deque[float] = deque()
        self._early = 0

    def died(
        self, now_s: float, exit_code: int | None = None, lived_s: float = EARLY_S
    ) -> float | None:
        """Seconds until the next start, None when there will be none.

        Args:
            now_s: The clock.
            exit_code: What it exited with; negative for a signal, None where it is not known.
            lived_s: How long it ran.
        """
        early = exit_code is not None and exit_code > 0 and lived_s < EARLY_S
        self._early = self._early + 1 if early else 0
        if exit_code == CONFIGURATION or self._early >= MAX_EARLY:
            return None
        while self._times and now_s - self._times[0] > self._window_s:
            self._times.popleft()
        if len(self._times) >= self._most:
            return None
        self._times.append(now_s)
        return min(self._min_s * 2.0 ** (len(self._times) - 1), self._max_s)


class _Returning(msgspec.Struct):
    """The threads that a core is to load.

    Attributes:
        waiting: Not asked for yet.
        asked: How many are being loaded.
    """

    waiting: deque[str]
    asked: int = 0


class Pool:
    """Starting, greeting and losing cores.

    Args:
        board: The hub's.
        greetings: What cores hear first.
        restarts: Of each core.
        follow: Looks for a thread on other hosts; False where that is in vain.
    """

    def __init__(
        self,
        board: Board,
        greetings: Greetings,
        restarts: list[Restarts],
        follow: Callable[[str], bool],
    ) -> None:
        self._board = board
        self._follow = follow
        self._greetings = greetings
        self._restarts = restarts
        self._returning: dict[int, _Returning] = {}

    def __repr__(self) -> str:
        return f"<Pool {self._board.cores!r}>"

    @property
    def ready(self) -> bool:
        """Whether a core is up."""
        return any(core.state is CoreState.READY for core in self._board.cores)

    @property
    def failed(self) -> bool:
        """Whether no core is left."""
        return all(core.state is CoreState.FAILED for core in self._board.cores)

    def started(self, core: CoreSession) -> None:
        """Its process runs: say hello."""
        core.started()
        self._greet(core)

    def greet_waiting(self) -> None:
        """It is known at last what cores hear: say it to those that wait."""
        for core in self._board.cores:
            if core.state is CoreState.STARTING:
                self._greet(core)

    def _greet(self, core: CoreSession) -> None:
        params = self._greetings.params()
        if params is None:  # its one client has not spoken yet
            self._board.effects.core_waits(core)
            return
        epoch = core.epoch

        def greeted(answer: CoreMessage | None) -> None:
            if answer is not None and core.epoch == epoch:
                self._greeted(core, answer)

        self._board.ask(core, "initialize", params, greeted, at_once=True)

    def _greeted(self, core: CoreSession, answer: CoreMessage) -> None:
        """It answered; bring its threads back, then let others in."""
        core.greeting = bytes(answer.result) if answer.result is not UNSET else b"{}"
        if _is_reference(core.greeting):
            core.queue.narrow(REFERENCE_WINDOW)
        self._board.effects.write(core, envelope.notification("initialized", None))
        threads: deque[str] = deque()
        for thread in self._board.placement.of(core):
            if self._board.subscribers.has(thread):
                threads.append(thread)
            else:
                self._board.forget_thread(thread)
        self._returning[core.index] = _Returning(threads)
        for _ in range(min(len(threads), RESUMES_AT_ONCE) or 1):
            self._resume_next(core)

    def _resume_next(self, core: CoreSession) -> None:
        """Load one more thread at a core; when all are there, let others in."""
        returning = self._returning[core.index]
        if returning.waiting:
            self._resume(core, returning.waiting.popleft())
        elif returning.asked == 0 and core.state is CoreState.STARTING:
            self._open(core)

    def _resume(self, core: CoreSession, thread: str) -> None:
        returning = self._returning[core.index]
        returning.asked += 1

        def answered(answer: CoreMessage | None) -> None:
            returning.asked -= 1
            if answer is not None:
                self._resumed(thread, answer)
                self._resume_next(core)

        params = _encode({"threadId": thread, "excludeTurns": True})
        self._board.ask(core, "thread/resume", params, answered, at_once=True)

    def _resumed(self, thread: str, answer: CoreMessage) -> None:
        """A thread is back, or it is not and who heard it must know."""
        board = self._board
        if answer.error is UNSET:
            board.subscribers.resumed(thread, None)
            return
        board.subscribers.leave_hops(thread)
        if self._follow(thread):  # another host may have taken it while its core was away
            board.placement.forget(thread)
            return
        board.effects.log("core.thread_lost", thread=thread)
        line = envelope.our_notification("thread/closed", {"threadId": thread}, board.now_ns)
        board.deliver(board.audience(thread), "thread/closed", line)
        board.forget_thread(thread)

    def _move(self, threads: list[str]) -> None:
        """Their core failed for good: another loads them, or nobody can."""
        board = self._board
        for thread in threads:
            core = board.placement.choose()
            if core is None:
                board.forget_thread(thread)
                continue
            board.placement.place(thread, core)
            if core.state is CoreState.READY:
                self._resume(core, thread)
            elif core.greeting is not None:
                self._returning[core.index].waiting.append(thread)

    def _open(self, core: CoreSession) -> None:
        core.opened()
        self._greetings.greeted(core)
        self._board.effects.core_ready(core)

    def lost(
        self,
        core: CoreSession,
        now_s: float,
        exit_code: int | None = None,
        lived_s: float = EARLY_S,
    ) -> float | None:
        """Its process is gone; settle all that it held. How it went is for `Restarts`.

        Returns:
            Seconds until it shall be started again, None when it has failed for good
            or the proxy is about to stop.
        """
        if core.state is CoreState.FAILED:
            return None
        self.settle(core)
        delay_s = self._next_start(core, now_s, exit_code, lived_s)
        if self.failed:
            self._greetings.give_up()
        return delay_s

    def settle(self, core: CoreSession) -> None:
        """It is gone: end what it was asked, what ran there and what it asked."""
        board = self._board
        core.lost()
        for pending in core.router.lose_all():
            board.not_started(pending)
            if pending.then is not None:
                pending.then(None)
            elif pending.connection is not None:
                board.refuse(pending, HOST_LOST if core.url else CORE_LOST)
        for turn in [turn for turn in board.turns if turn.core is core]:
            self._end_turn(turn)
        for asked in board.server_requests.lose(core):
            board.resolve(asked, self._why())
        for thread in list(board.placement.of(core)):
            if not board.subscribers.has(thread):
                board.forget_thread(thread)
        self._forget_handles(core)

    def _next_start(
        self, core: CoreSession, now_s: float, exit_code: int | None, lived_s: float
    ) -> float | None:
        if self._board.drain.state not in (State.STARTING, State.SERVING):
            core.failed()
            for thread in self._board.placement.of(core):
                self._board.placement.forget(thread)
            return None
        delay_s = self._restarts[core.index].died(now_s, exit_code, lived_s)
        if delay_s is None:
            core.failed()
            self._move(list(self._board.placement.of(core)))
        return delay_s

    def _forget_handles(self, core: CoreSession) -> None:
        for connection in self._board.connections.values():
            held = [name for name, index in connection.handles.items() if index == core.index]
            for name in held:
                del connection.handles[name]

    def _end_turn(self, turn: Turn) -> None:
        """Tell its subscribers what the core cannot: the turn is over."""
        board = self._board
        ended = board.turns.end(turn.turn_id, "interrupted", board.now_ns, self._why())
        if ended is None:
            return
        line = _turn_completed(turn, board.now_ns)
        board.deliver(board.audience(turn.thread), "turn/completed", line)
        board.end_turn(ended)

    def end_turns(self) -> None:
        """End every turn, for who hears it."""
        for turn in self._board.turns:
            self._end_turn(turn)

    def _why(self) -> str:
        return request_spans.DRAIN if self._board.drain.state in ENDING else "core_lost"


def _turn_completed(turn: Turn, now_ns: int) -> bytes:
    """`turn/completed` in the reference's shape, marked as ours."""
    body: dict[str, object] = {
        "id": turn.turn_id,
        "rootTurnId": turn.turn_id,
        "items": [],
        "itemsView": "notLoaded",
        "status": "interrupted",
        "error": None,
        "startedAt": turn.start_ns // 10**9,
        "completedAt": now_ns // 10**9,
        "durationMs": max(0, now_ns - turn.start_ns) // 10**6,
    }
    params = {"threadId": turn.thread, "turn": body, "synthesized": True}
    return envelope.our_notification("turn/completed", params, now_ns)
