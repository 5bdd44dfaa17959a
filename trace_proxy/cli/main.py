"""The program's door: block the signals, read the options, run, give back an exit code.

Whatever keeps the proxy from serving ends in one line on stderr; a traceback only where
`--log-level debug` asks for it.

Nothing heavy is imported at the top. Importing what the proxy needs takes 0.3 s, and a
signal in that time must wait until the runtime can answer it, so it is blocked first:
pending, not lost. The runtime unblocks.
"""

import contextlib
import os
import signal
import sys

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""What asks the proxy to stop, where our parent does not ignore it (`nohup`, `&`)."""

MIN_DESCRIPTORS = 64
"""Loop, listener, log, exporter, signals and one core take some 30; then come the clients."""

MANY_DESCRIPTORS = 65_536
"""As many as the hard limit allows up to this: some thousand clients with a core each."""


def main() -> int:
    """Run `trace-proxy`, or `trace-proxy talk`: a client for people.

    Returns:
        0 drained, 1 could not start or go on, 2 configuration, 3 drained but interrupted,
        143 or 130 forced.
    """
    if sys.argv[1:2] == ["talk"]:
        from trace_proxy.cli import talk  # noqa: PLC0415 - it is another program, without our signals

        return talk.main(sys.argv[2:])
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    debug = False
    try:
        _fill_standard_descriptors()
        from trace_proxy.settings.grammar import Answered, read_config  # noqa: PLC0415 - signals first

        try:
            config = read_config(sys.argv[1:], os.environ)
        except Answered as answer:
            return _print(str(answer))
        debug = config.logging.level.value == "debug"
        if asked := signal.sigpending() & _heard():  # nothing runs: nothing to drain
            return 130 if asked == {signal.SIGINT} else 143
        _require_descriptors()
        from trace_proxy.runtime import app  # noqa: PLC0415 - as above, the heaviest

        return app.run(config)
    except Exception as error:  # noqa: BLE001 - the last door: a line, whatever it was
        if debug:
            import traceback  # noqa: PLC0415 - hardly ever needed

            traceback.print_exc()
        return _refused(error)


def _heard() -> set[signal.Signals]:
    return {each for each in STOP_SIGNALS if signal.getsignal(each) is not signal.SIG_IGN}


def _refused(error: BaseException) -> int:
    """Say in one line why it is over; returns the exit code."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    code, why = getattr(error, "exit_code", None), str(error)
    if not isinstance(code, int):
        code = 1
        if isinstance(error, OSError) and error.strerror:
            why = f"{error.strerror}{f': {error.filename}' if error.filename else ''}"
        why = f"cannot go on: {why or type(error).__name__}; --log-level debug shows where"
    with contextlib.suppress(OSError):  # nobody reads it: the exit code still tells
        os.write(2, f"trace-proxy: {_one_line(why)}\n".encode(errors="replace"))
    return code


def _print(text: str) -> int:
    """Write to stdout, without a buffer that could fail only when the interpreter ends."""
    left = memoryview(text.encode(errors="replace"))
    try:
        while left:
            left = left[os.write(1, left) :]
    except BrokenPipeError:  # `| head` has seen enough
        return 0
    except OSError as error:
        return _refused(OSError(error.errno, f"{error.strerror} on stdout"))
    return 0


def _require_descriptors() -> None:
    """Take what is allowed, and refuse what is too little, before something fails half-way."""
    import resource  # noqa: PLC0415 - signals first

    from trace_proxy.errors import StartError  # noqa: PLC0415 - as above

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < MIN_DESCRIPTORS:
        raise StartError(
            f"only {hard} open files are allowed and {MIN_DESCRIPTORS} are needed:"
            " raise the limit (ulimit -n)"
        )
    wanted = MANY_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MANY_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


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
