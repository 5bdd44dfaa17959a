"""Signals as events: one thread waits for them, the event loop hears of them.

SIGTERM, SIGINT, SIGHUP and SIGQUIT stay blocked in every thread from the first instruction on,
so none is ever lost or handled half-way; `sigwait` in this thread takes them one by
one. A plain thread, because it must still work when the loop is wedged: then the
second signal ends the process from here.
"""

import os
import signal
import threading
from collections.abc import Callable
from typing import Final

import structlog

from trace_proxy.drain import SAME_SIGNAL_S, SignalName

STOP_SIGNALS: Final[dict[int, SignalName]] = {
    signal.SIGTERM: "TERM",
    signal.SIGINT: "INT",
    signal.SIGHUP: "HUP",
    signal.SIGQUIT: "QUIT",
}

PASSED_OVER: Final = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)
"""They mean nothing here, and by default would end the process without a drain."""

WEDGED_S: Final = 1.0
"""A loop that has not taken a second signal by then never will: forced exits take 2 s."""

_NEVER_FORCE: Final = ("HUP", "QUIT")

_log = structlog.get_logger("trace_proxy")

_FORCED: Final[dict[SignalName, int]] = {"TERM": 143, "INT": 130}


class SignalThread:
    """Waits for signals.

    Args:
        deliver: Called in this thread with each signal; must hand over to the loop.
        kill_all: Kills all descendants; called in this thread when the loop is wedged.
    """

    def __init__(
        self, deliver: Callable[[SignalName], None], kill_all: Callable[[], None]
    ) -> None:
        self._deliver = deliver
        self._kill_all = kill_all
        self._taken = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="signals", daemon=True)

    def start(self) -> None:
        """Begin; the caller blocked the signals before.

        What our parent ignores (`nohup`, a script's `&`) stays ignored: a signal that is
        blocked would be queued all the same, and be heard by who waits for it.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, (*STOP_SIGNALS, *PASSED_OVER))
        self._thread.start()

    def taken(self) -> None:
        """The loop says: I have the latest signal."""
        self._taken.set()

    def limit(self, timeout_s: float, code: int) -> None:
        """End the process with this code if it has not ended by itself by then."""
        threading.Thread(
            target=self._watch, args=(timeout_s, code), name="exit-limit", daemon=True
        ).start()

    def _watch(self, timeout_s: float, code: int) -> None:
        if not self._ended.wait(timeout_s):
            self._end(code)

    def ended(self) -> None:
        """The process is about to exit by itself."""
        self._ended.set()

    def _run(self) -> None:
        count = 0
        known = (*STOP_SIGNALS, *PASSED_OVER)
        heard = [each for each in known if signal.getsignal(each) is not signal.SIG_IGN]
        while True:
            received = signal.sigwait(heard)
            if received in PASSED_OVER:
                _log.info("signal.ignored", name=signal.Signals(received).name)
                continue
            name = STOP_SIGNALS[received]
            if name not in _NEVER_FORCE:
                count += 1
            self._taken.clear()
            self._deliver(name)
            wedged = not self._taken.wait(WEDGED_S if count > 1 else SAME_SIGNAL_S)
            if wedged and count > 1 and name not in _NEVER_FORCE:
                self._end(_FORCED[name])

    def _end(self, code: int) -> None:
        self._kill_all()
        os._exit(code)
