import asyncio
import os
import signal
import sys
import time

import pytest

WEDGED = """
import signal, sys, time
from trace_proxy.runtime.signals import SignalThread
signals = SignalThread(lambda name: None, lambda: print("killed all", flush=True))
signals.start()
{more}
print("up", flush=True)
time.sleep(60)
"""


async def wedged(more: str = "") -> asyncio.subprocess.Process:
    """A process whose event loop takes nothing any more."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WEDGED.format(more=more), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"up\n"
    return process


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "INT"]
)
async def test_the_second_signal_ends_a_process_whose_loop_is_wedged(
    number: signal.Signals, code: int
) -> None:
    process = await wedged()
    process.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.2)  # or it would be one signal said twice
    began_s = time.monotonic()
    process.send_signal(number)
    async with asyncio.timeout(5):
        said, _ = await process.communicate()
    assert process.returncode == code
    assert said == b"killed all\n"
    assert time.monotonic() - began_s < 2


@pytest.mark.parametrize(
    "number",
    [signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM],
    ids=lambda number: signal.Signals(number).name,
)
async def test_what_asks_for_no_end_or_only_for_a_drain_never_ends_a_process(
    number: signal.Signals,
) -> None:
    process = await wedged()
    for _ in range(3):
        process.send_signal(number)
        await asyncio.sleep(0.15)
    assert process.returncode is None
    process.kill()
    await process.wait()


async def test_a_closing_that_hangs_is_ended_with_the_code_it_would_have_had() -> None:
    process = await wedged("signals.limit(0.2, 3)")
    async with asyncio.timeout(5):
        said, _ = await process.communicate()
    assert (process.returncode, said) == (3, b"killed all\n")


async def test_a_closing_that_ends_in_time_is_left_alone() -> None:
    process = await wedged("signals.limit(0.2, 3); signals.ended()")
    await asyncio.sleep(0.5)
    assert process.returncode is None
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()
