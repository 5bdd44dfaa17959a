"""The log: one event a line on stderr, JSON or, on a terminal, in console style.

`timestamp`, `level`, `event`, then the fields, with `trace_id` and `span_id` at the top
level when they are given. Libraries that use the standard `logging` end up in the same
place; the arguments of aiohttp's messages stay out: they are made of request lines and
headers, and may hold a bearer token.

What may stand in a line is settled in `log_fields`, writing it in `stderr_sink`.
"""

import json
import logging
import os
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import structlog
from structlog.typing import EventDict

from trace_proxy.runtime.log.fields import clean, clean_text, describe_exception
from trace_proxy.runtime.log.stderr_sink import StderrSink
from trace_proxy.settings.config import LogFormat, Logging

QUIET_LOGGERS: Final = ("aiohttp.access", "aiohttp.websocket")
"""Request lines with their queries; offered subprotocols, where browsers put a token."""

_FOR_MACHINES: Final = ("span_id",)
"""Who reads a log at a terminal finds a span by its trace."""

_ID_DIGITS: Final = {"trace_id": 32, "span_id": 16}


def configure(settings: Logging, *, record_content: bool = False, fd: int = 2) -> StderrSink:
    """Send structlog and the standard loggers to `fd`; the later call wins.

    Args:
        settings: Style and level.
        record_content: Whether exceptions may be logged with their text.
        fd: Where to; a terminal turns `auto` into console style.

    Returns:
        The sink: `close` it last thing, `dropped` is a metric.
    """
    terminal = os.isatty(fd)
    console = settings.format is LogFormat.CONSOLE or (
        settings.format is LogFormat.AUTO and terminal
    )
    render = _console_line(colors=terminal) if console else _json_line
    lines = _Lines(render, short=console, record_content=record_content)
    sink = StderrSink(fd, dropped_line=lines.dropped)
    level = logging.getLevelNamesMapping()[settings.level.name]
    structlog.configure(
        processors=[structlog.processors.add_log_level, lines],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _SinkLogger(sink),
        cache_logger_on_first_use=False,  # so that a later call reaches loggers in use
    )
    _take_over_standard_loggers(_LibraryHandler(sink, lines), level)
    return sink


class _Lines:
    """Event → line: the last processor of structlog, and of the standard loggers."""

    def __init__(
        self, render: Callable[[EventDict], str], *, short: bool, record_content: bool
    ) -> None:
        self._render = render
        self._short = short
        self._record_content = record_content

    def __call__(self, _logger: object, _method: str, event: EventDict) -> str:
        """One line, without its newline."""
        ordered: EventDict = {
            "timestamp": _now(short=self._short),
            "level": event.pop("level", "info"),
            "event": clean_text(str(event.pop("event", ""))),
        }
        error = _exception_of(event.pop("exc_info", None))
        for name, value in event.items():
            if self._short and (value is None or name in _FOR_MACHINES):
                continue
            ordered[name] = _hex(name, value) if name in _ID_DIGITS else clean(value)
        if error is not None:
            ordered["exception"] = describe_exception(error, with_message=self._record_content)
        return self._render(ordered)

    def dropped(self, lines: int) -> str:
        """The line that tells of lost ones."""
        return self(None, "warning", {"event": "log.dropped", "level": "warning", "lines": lines})


class _SinkLogger:
    """What structlog calls with the finished line, by the name of the level."""

    def __init__(self, sink: StderrSink) -> None:
        self._sink = sink

    def msg(self, line: str) -> None:
        self._sink.write_line(line)

    debug = info = warning = error = critical = msg


class _LibraryHandler(logging.Handler):
    """The standard loggers' way into the same log."""

    def __init__(self, sink: StderrSink, lines: _Lines) -> None:
        super().__init__()
        self._sink = sink
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """One record, one line."""
        event = {
            "event": "library.message",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message_of(record),
            "exc_info": record.exc_info,
        }
        self._sink.write_line(self._lines(None, "", event))


def _take_over_standard_loggers(handler: _LibraryHandler, level: int) -> None:
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _LibraryHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(max(level, logging.INFO))  # libraries quote whole messages at debug
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    logging.captureWarnings(capture=True)


def _message_of(record: logging.LogRecord) -> object:
    """The text without what a client sent, and whatever the arguments are.

    aiohttp's arguments are parts of requests. asyncio quotes tasks and callbacks, with
    the values they hold, behind a bracket or on a second line.
    """
    if record.name.startswith("aiohttp"):
        return record.msg
    try:
        text = record.getMessage()
    except Exception:  # noqa: BLE001 - a library's wrong format is no reason to lose the line
        return record.msg
    return re.split(r"[<(\n]", text)[0].rstrip() if record.name == "asyncio" else text


def _exception_of(exc_info: object) -> BaseException | None:
    """Structlog and logging both take True, an exception, or the triple."""
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return exc_info[1] if isinstance(exc_info[1], BaseException) else None
    return sys.exc_info()[1] if exc_info else None


def _hex(name: str, value: object) -> object:
    """An id as W3C writes it, whether it comes as a number or as text."""
    return f"{value:0{_ID_DIGITS[name]}x}" if isinstance(value, int) else clean(value)


def _now(*, short: bool) -> str:
    """For people the local time to the second, else UTC to the microsecond."""
    if short:
        return datetime.now(UTC).astimezone().strftime("%H:%M:%S")
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _json_line(event: EventDict) -> str:
    return json.dumps(event, separators=(",", ":"))


def _console_line(*, colors: bool) -> Callable[[EventDict], str]:
    renderer = structlog.dev.ConsoleRenderer(0, colors=colors, sort_keys=False, pad_level=False)
    return lambda event: str(renderer(None, "", event))
