"""Logging to stderr: events with fields, as JSON or for people. Set up at the first event.

structlog costs 50 ms to import, which a core that has nothing to log never pays.
Whoever should read stderr may be gone, or its disk be full: then there is no log, and
nothing else changes.
"""

import contextlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

_choice = {"format": "auto", "level": "info"}


def choose(log_format: str, level: str) -> None:
    """Say how to log: `auto`, `json` or `console`, and the lowest level."""
    _choice.update(format=log_format, level=level)


def logger() -> "FilteringBoundLogger":
    """The logger."""
    import structlog  # noqa: PLC0415 - see the module

    if not structlog.is_configured():
        _configure(structlog)
    bound: FilteringBoundLogger = structlog.get_logger()
    return bound


class _Stderr:
    """Descriptor 2, a line at a time; never fails."""

    def write(self, text: str) -> None:
        """Write all of it, or what can be."""
        left = memoryview(text.encode(errors="backslashreplace"))
        with contextlib.suppress(OSError):
            while left:
                left = left[os.write(2, left) :]

    def flush(self) -> None:
        """Nothing is kept."""


def _configure(structlog: Any) -> None:
    is_terminal = os.isatty(2)
    as_json = _choice["format"] == "json" or (_choice["format"] == "auto" and not is_terminal)
    renderer: Any = structlog.processors.JSONRenderer()
    stamper = structlog.processors.TimeStamper(fmt="iso", utc=True)
    if not as_json:  # for people: short, and in their time
        renderer = structlog.dev.ConsoleRenderer(0, colors=is_terminal, pad_level=False)
        stamper = structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            stamper,
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_choice["level"]),
        logger_factory=structlog.WriteLoggerFactory(file=_Stderr()),
        cache_logger_on_first_use=False,
    )
