"""Blocking work that the event loop waits for with a deadline, and leaves behind after it.

`asyncio.to_thread` will not do: its threads are joined when the process exits, so one
that hangs in a collector's socket would hold the exit.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable


def start_daemon(work: Callable[[], None], name: str = "telemetry-shutdown") -> threading.Thread:
    """Run `work` in a thread that nobody has to wait for."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread


async def finished_in_thread(work: Callable[[], None], timeout_s: float) -> bool:
    """Run `work` in a daemon thread and wait for its end, at most `timeout_s`.

    Returns:
        Whether it ended in time. It goes on otherwise.
    """
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def run() -> None:
        try:
            work()
        finally:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(ended.set)

    start_daemon(run)
    try:
        async with asyncio.timeout(timeout_s):
            await ended.wait()
    except TimeoutError:
        return False
    return True
