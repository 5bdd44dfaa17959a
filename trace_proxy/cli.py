"""The program's door: block the signals, read the options, run, give back an exit code.

Nothing heavy is imported at the top. Importing what the proxy needs takes 0.3 s, and a
signal in that time must wait until the runtime can answer it (drain-and-queues.md,
"Traps"), so it is blocked first: pending, not lost. The runtime unblocks.
"""

import contextlib
import os
import signal
import sys

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What asks the proxy to stop."""


def main() -> int:
    """Run `trace-proxy`, or `trace-proxy talk`: a client for people.

    Returns:
        0 drained, 1 could not start or go on, 2 configuration, 3 drained but interrupted,
        143 or 130 forced.
    """
    if sys.argv[1:2] == ["talk"]:
        from trace_proxy import talk  # noqa: PLC0415 - it is another program, without our signals

        return talk.main(sys.argv[2:])
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    _fill_standard_descriptors()

    from trace_proxy.errors import ConfigurationError, StartError  # noqa: PLC0415 - signals first
    from trace_proxy.settings.grammar import read_config  # noqa: PLC0415 - as above

    try:
        config = read_config(sys.argv[1:], os.environ)
        if asked := signal.sigpending() & set(STOP_SIGNALS):  # nothing runs: nothing to drain
            return 130 if asked == {signal.SIGINT} else 143
        from trace_proxy.runtime import app  # noqa: PLC0415 - as above, the heaviest

        return app.run(config)
    except (ConfigurationError, StartError) as error:
        with contextlib.suppress(OSError):  # nobody reads it: the exit code still tells
            os.write(2, f"trace-proxy: {_one_line(str(error))}\n".encode(errors="replace"))
        return error.exit_code


def _fill_standard_descriptors() -> None:
    """Give 0, 1 and 2 to the null device where our parent closed them.

    Otherwise the next file or socket gets the number, and log lines go into it.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)


def _one_line(text: str) -> str:
    """Cut at what a terminal shows without scrolling, control characters made visible."""
    shown = (char if char.isprintable() else repr(char)[1:-1] for char in text[:1000])
    return "".join(shown)
