import errno
import fcntl
import json
import logging
import os
import pty
import select
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from trace_proxy.runtime.log.fields import MAX_ITEMS, clean, clean_text, describe_exception
from trace_proxy.runtime.log.setup import QUIET_LOGGERS, configure
from trace_proxy.runtime.log.stderr_sink import StderrSink
from trace_proxy.settings.config import LogFormat, Logging, LogLevel

DEADLINE_S = 10.0


@dataclass
class Pipe:
    """A pipe in the place of stderr, read when the test wants to."""

    read_fd: int = -1
    write_fd: int = -1
    sinks: list[StderrSink] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe()

    def configure(self, **settings: Any) -> StderrSink:
        record_content = settings.pop("record_content", False)
        settings = {"format": LogFormat.JSON} | settings
        root = logging.getLogger()
        for handler in root.handlers[:]:
            if type(handler).__module__.startswith("_pytest"):
                root.removeHandler(handler)  # it raises for a wrong format
        sink = configure(Logging(**settings), record_content=record_content, fd=self.write_fd)
        self.sinks.append(sink)
        return sink

    def lines(self) -> list[str]:
        """Everything that was logged; ends logging."""
        chunks: list[bytes] = []
        reader = threading.Thread(
            target=lambda: chunks.extend(iter(lambda: os.read(self.read_fd, 65536), b""))
        )
        reader.start()
        for sink in self.sinks:
            sink.close(timeout_s=DEADLINE_S)
        os.close(self.write_fd)
        self.write_fd = -1
        reader.join(DEADLINE_S)
        text = b"".join(chunks).decode()
        assert not text or text.endswith("\n")
        return text.split("\n")[:-1]

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines()]

    def close(self) -> None:
        for fd in (self.read_fd, self.write_fd):
            if fd >= 0:
                os.close(fd)


@pytest.fixture
def stderr() -> Iterator[Pipe]:
    root = logging.getLogger()
    level = root.level
    pipe = Pipe()
    yield pipe
    pipe.close()
    structlog.reset_defaults()
    logging.captureWarnings(capture=False)
    root.setLevel(level)
    root.handlers.clear()
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.NOTSET)


def test_an_event_is_one_json_object_with_its_time_level_and_fields(stderr: Pipe) -> None:
    stderr.configure()

    structlog.get_logger().info("proxy.ready", listen=["ws://127.0.0.1:1"], cores=2, ok=True)

    (event,) = stderr.events()
    logged_at = datetime.fromisoformat(event.pop("timestamp"))
    assert logged_at.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - logged_at) < timedelta(seconds=DEADLINE_S)
    assert list(event.items()) == [
        ("level", "info"),
        ("event", "proxy.ready"),
        ("listen", ["ws://127.0.0.1:1"]),
        ("cores", 2),
        ("ok", True),
    ]


def test_trace_ids_stand_at_the_top_level_as_w3c_writes_them(stderr: Pipe) -> None:
    stderr.configure()
    log = structlog.get_logger()

    log.info("request.done", trace_id=0xAB, span_id=0xCD)
    log.info("request.done", trace_id="ab" * 16, span_id="cd" * 8)

    assert [(event["trace_id"], event["span_id"]) for event in stderr.events()] == [
        ("0" * 30 + "ab", "0" * 14 + "cd"),
        ("ab" * 16, "cd" * 8),
    ]


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (LogLevel.DEBUG, ["debug", "info", "warning", "error", "critical"]),
        (LogLevel.WARNING, ["warning", "error", "critical"]),
        (LogLevel.ERROR, ["error", "critical"]),
    ],
)
def test_only_the_level_asked_for_and_above_is_written(
    stderr: Pipe, level: LogLevel, expected: list[str]
) -> None:
    stderr.configure(level=level)
    log = structlog.get_logger()

    for name in ("debug", "info", "warning", "error", "critical"):
        getattr(log, name)("some.event")

    assert [event["level"] for event in stderr.events()] == expected


@given(st.text(), st.recursive(st.none() | st.text() | st.integers() | st.floats(), st.lists))
def test_any_value_makes_json_without_anything_a_terminal_obeys(text: str, value: object) -> None:
    line = json.dumps(clean({text: value, "again": [text, {"deep": value}]}), allow_nan=False)

    assert line.isprintable()
    assert json.loads(line).keys() <= {clean_text(text), "again"}


HOSTILE = "\n{}\r\x1b[2J\x07\x9b31m\u2028\u202e\x7f\0\ud800"


@pytest.mark.parametrize("style", [LogFormat.JSON, LogFormat.CONSOLE])
def test_what_a_client_sends_stays_on_one_line_and_moves_no_cursor(
    stderr: Pipe, style: LogFormat
) -> None:
    stderr.configure(format=style)

    structlog.get_logger().info("client." + HOSTILE, name=HOSTILE, ids=[HOSTILE], at={HOSTILE: 1})
    logging.getLogger("some.library").warning("%s", HOSTILE)

    first, second = stderr.lines()
    assert first.isprintable()
    assert second.isprintable()
    assert r"\x1b[2J" in (json.loads(first)["name"] if style is LogFormat.JSON else first)


def test_a_long_value_is_cut_with_a_mark(stderr: Pipe) -> None:
    stderr.configure()

    structlog.get_logger().info("e" * 257, fits="x" * 256, long="y" * 100_000, many=range(10**9))

    (event,) = stderr.events()
    assert event["event"] == "e" * 256 + "…"
    assert event["fits"] == "x" * 256
    assert event["long"] == "y" * 256 + "…"
    assert event["many"] == "range(0, 1000000000)"


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (1.5, 1.5),
        (2**127, 2**127),
        (10**5000, "<integer of 16610 bits>"),
        (b"\xff", "b'\\xff'"),
        (Unprintable(), "<Unprintable without repr>"),
        (list(range(100)), list(range(MAX_ITEMS))),
        (dict.fromkeys(range(100), 0), {str(key): 0 for key in range(MAX_ITEMS)}),
        ([[[[1]]]], [[["[1]"]]]),
        ((True, None), [True, None]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_json_cannot_hold_becomes_text(value: object, expected: object) -> None:
    assert clean(value) == expected


def look_up() -> None:
    raise KeyError("canary")


def fail_twice() -> None:
    try:
        look_up()
    except KeyError as error:
        raise FileNotFoundError(errno.ENOENT, "canary") from error


def test_an_exception_is_told_by_type_and_place_without_its_text(stderr: Pipe) -> None:
    stderr.configure()
    log = structlog.get_logger()

    try:
        fail_twice()
    except OSError:
        log.exception("core.lost")
        log.warning("core.lost", exc_info=True)

    lines = stderr.lines()
    for line in lines:
        assert "canary" not in line
        told = json.loads(line)["exception"]
        assert told.startswith("FileNotFoundError(ENOENT) at test_setup.py:")
        assert "fail_twice < test_setup.py:" in told
        assert "; KeyError at test_setup.py:" in told
    assert [json.loads(line)["level"] for line in lines] == ["error", "warning"]


def test_with_content_recorded_an_exception_tells_its_text(stderr: Pipe) -> None:
    stderr.configure(record_content=True)

    structlog.get_logger().error("core.lost", exc_info=ValueError("can\nary"))

    assert stderr.events()[0]["exception"] == "ValueError: can\\nary"


def test_a_group_tells_its_members_and_a_ring_of_causes_ends() -> None:
    one, two = ValueError(), OSError()
    one.__cause__, two.__context__ = two, one
    group = ExceptionGroup("canary", [one, KeyError("canary")])

    assert describe_exception(group) == "ExceptionGroup; ValueError; KeyError; OSError"
    wide = ExceptionGroup("canary", [ValueError() for _ in range(1000)])
    assert describe_exception(wide).count(";") == 7


def test_an_error_without_a_known_number_is_told_by_what_it_has() -> None:
    assert describe_exception(OSError(99999, "canary")) == "OSError(99999)"


def test_standard_loggers_end_up_in_the_same_log(stderr: Pipe) -> None:
    stderr.configure(level=LogLevel.DEBUG)
    library = logging.getLogger("somebody.else")

    library.debug("whole messages are quoted here")
    library.warning("batch of %d lost", 3)
    library.error("wrong %d", "canary")
    library.log(logging.INFO + 1, "between")
    try:
        fail_twice()
    except OSError:
        library.exception("failed")

    events = stderr.events()
    assert [(event["level"], event["event"], event["message"]) for event in events] == [
        ("warning", "library.message", "batch of 3 lost"),
        ("error", "library.message", "wrong %d"),
        ("level 21", "library.message", "between"),
        ("error", "library.message", "failed"),
    ]
    assert {event["logger"] for event in events} == {"somebody.else"}
    assert events[-1]["exception"].startswith("FileNotFoundError(ENOENT) at ")


def test_of_aiohttp_neither_tokens_nor_requests_are_logged(stderr: Pipe) -> None:
    stderr.configure(level=LogLevel.DEBUG)

    for name in QUIET_LOGGERS:
        logging.getLogger(name).critical("%s", "canary")
    logging.getLogger("aiohttp.server").error("Error handling request from %s", "canary")

    (event,) = stderr.events()
    assert (event["logger"], event["message"]) == (
        "aiohttp.server",
        "Error handling request from %s",
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Task exception was never retrieved\nfuture: <Task 'canary'>", None),
        ("Exception in callback answer('canary')", "Exception in callback answer"),
        ("Executing <Handle 'canary'> took 1 s", "Executing"),
    ],
)
def test_of_asyncio_no_values_that_tasks_hold_are_logged(
    stderr: Pipe, text: str, expected: str | None
) -> None:
    stderr.configure()

    logging.getLogger("asyncio").error(text, exc_info=(KeyError, KeyError("canary"), None))
    logging.getLogger("asyncio").error("none", exc_info=True)  # noqa: LOG014 - libraries do

    first, second = stderr.events()
    assert first["message"] == (expected or "Task exception was never retrieved")
    assert first["exception"] == "KeyError"
    assert "exception" not in second


def test_python_warnings_are_log_lines(stderr: Pipe) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        stderr.configure()
        warnings.warn("something is old", stacklevel=1)

    (event,) = stderr.events()
    assert (event["logger"], event["level"]) == ("py.warnings", "warning")


def test_configuring_again_leaves_one_log_only(stderr: Pipe) -> None:
    log = structlog.get_logger()
    stderr.configure()
    stderr.configure()

    log.info("once")
    logging.getLogger("some.library").warning("once")

    assert len(stderr.lines()) == 2


def read_terminal(fd: int, needle: bytes) -> bytes:
    text = b""
    deadline_s = time.monotonic() + DEADLINE_S
    while needle not in text and time.monotonic() < deadline_s:
        if select.select([fd], [], [], 0.1)[0]:
            text += os.read(fd, 65536)
    return text


@pytest.mark.usefixtures("stderr")
def test_auto_is_console_style_with_colours_on_a_terminal() -> None:
    master, slave = pty.openpty()
    sink = configure(Logging(), fd=slave)

    structlog.get_logger().warning("proxy.ready", cores=2)

    text = read_terminal(master, b"\n")
    sink.close(timeout_s=DEADLINE_S)
    os.close(slave)
    os.close(master)
    assert b"proxy.ready" in text
    assert b"\x1b[" in text
    assert not text.startswith(b"{")


def test_auto_is_json_on_a_pipe_and_console_can_be_had_without_colours(stderr: Pipe) -> None:
    stderr.configure(format=LogFormat.AUTO)
    structlog.get_logger().info("proxy.ready")
    stderr.configure(format=LogFormat.CONSOLE)
    structlog.get_logger().info("proxy.ready", cores=2)

    lines = sorted(stderr.lines())
    assert json.loads(lines[1])["event"] == "proxy.ready"
    assert "proxy.ready" in lines[0]
    assert lines[0].isprintable()


def fill(fd: int) -> int:
    """Fill a pipe to the last byte; returns how many went in."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    filled = 0
    try:
        while True:
            filled += os.write(fd, b"x" * 4096)
    except BlockingIOError:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)
        return filled


def dropped_line(lines: int) -> str:
    return f"lost {lines}"


def test_nobody_waits_for_a_full_pipe_and_lost_lines_are_counted_and_told(stderr: Pipe) -> None:
    filled = fill(stderr.write_fd)
    sink = StderrSink(stderr.write_fd, dropped_line=dropped_line, max_queued_bytes=1000)
    started_s = time.monotonic()

    for _ in range(1000):
        sink.write_line("y" * 99)
    sink.close(timeout_s=0.05)

    assert time.monotonic() - started_s < DEADLINE_S
    assert sink.dropped >= 980  # at most two queues of ten: one waiting, one in the writer's hand
    stderr.sinks.append(sink)
    first, *lines = stderr.lines()
    assert [first[filled:], *lines].count("y" * 99) == 1000 - sink.dropped
    told = [int(line.removeprefix("lost ")) for line in lines if line.startswith("lost ")]
    assert sum(told) == sink.dropped


def test_a_non_blocking_descriptor_loses_nothing(stderr: Pipe) -> None:
    os.set_blocking(stderr.write_fd, False)
    sink = StderrSink(stderr.write_fd, dropped_line=dropped_line)
    for number in range(5000):
        sink.write_line(f"{number:0100}")
    text = b""

    while text.count(b"\n") < 5000:
        assert select.select([stderr.read_fd], [], [], DEADLINE_S)[0]
        text += os.read(stderr.read_fd, 65536)

    assert text.split() == [f"{number:0100}".encode() for number in range(5000)]
    assert sink.dropped == 0
    sink.close(timeout_s=DEADLINE_S)


def test_a_closed_pipe_kills_nobody(stderr: Pipe) -> None:
    os.close(stderr.read_fd)
    stderr.read_fd = -1
    sink = StderrSink(stderr.write_fd, dropped_line=dropped_line)

    sink.write_line("one")
    sink.write_line("two")
    sink.close(timeout_s=DEADLINE_S)

    assert sink.dropped == 2
    assert repr(sink) == f"<StderrSink fd={stderr.write_fd} queued=0 dropped=2>"


def test_after_close_lines_are_dropped_and_close_may_be_repeated(stderr: Pipe) -> None:
    sink = StderrSink(stderr.write_fd, dropped_line=dropped_line)
    sink.write_line("kept")
    sink.close(timeout_s=DEADLINE_S)

    sink.write_line("late")
    sink.close(timeout_s=DEADLINE_S)

    assert sink.dropped == 1
    assert stderr.lines() == ["kept"]


def test_losses_are_told_as_an_event_with_their_number(stderr: Pipe) -> None:
    sink = stderr.configure()
    filled = fill(stderr.write_fd)
    log = structlog.get_logger()
    fields = {f"field_{number}": "z" * 300 for number in range(16)}

    for _ in range(2000):
        if not sink.dropped:
            log.info("some.event", **fields)
    first, *lines = stderr.lines()

    assert json.loads(first[filled:])["event"] == "some.event"
    told = [event for event in map(json.loads, lines) if event["event"] == "log.dropped"]
    assert [(event["level"], event["lines"]) for event in told] == [("warning", sink.dropped)]
