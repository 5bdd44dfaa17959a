"""A core that greets, and breaks the protocol at the first `model/list`: one row each.

    python hostile.py ROW

To add a row, write a function of the request's id as JSON text, and enter it in `ROWS` with
what the proxy must make of it. Standard library only.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

FOREVER_S: Final = 3600
SLEEP: Final = [sys.executable, "-c", f"import time; time.sleep({FOREVER_S})"]


def raw(data: bytes) -> None:
    """Say anything."""
    left = memoryview(data)
    while left:
        left = left[os.write(1, left) :]


def say(message: object) -> None:
    """Say something."""
    raw(json.dumps(message).encode() + b"\n")


def line(text: str, *, encoding: str = "utf-8") -> Callable[[str], None]:
    """A row that says one line, with the request's id in it."""
    return lambda request: raw(text.replace("ID", request).encode(encoding) + b"\n")


def good(request: str) -> None:
    """A proper answer."""
    raw(b'{"id":%b,"result":{"good":true}}\n' % request.encode())


def then_good(before: Callable[[], object]) -> Callable[[str], None]:
    """A row that does something and then answers as it should."""

    def row(request: str) -> None:
        before()
        good(request)

    return row


def closing(*descriptors: int) -> Callable[[str], None]:
    """A row that closes some of its pipes, and lives on."""

    def row(_request: str) -> None:
        for each in descriptors:
            os.close(each)
        time.sleep(FOREVER_S)

    return row


def dying(number: signal.Signals) -> Callable[[str], None]:
    """A row that ends by a signal."""
    return lambda _request: os.kill(os.getpid(), number)


def stop(_request: str) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def sleep(_request: str) -> None:
    time.sleep(FOREVER_S)


def leave_half_a_line(request: str) -> None:
    raw(b'{"id":%b,"result":{"a":' % request.encode())
    os._exit(0)


def leave_the_pipes_to_a_child(_request: str) -> None:
    subprocess.Popen(SLEEP, start_new_session=True)
    os._exit(0)


def never_end_a_line(_request: str) -> None:
    while True:
        raw(b"x" * 65536)


def drip(request: str) -> None:
    for each in b'{"id":%b,"result":{"good":true}}\n' % request.encode():
        raw(bytes([each]))


def repeat(request: str) -> None:
    for _ in range(50):
        good(request)


def run_ahead(request: str) -> None:
    if request.isdigit():
        for number in range(int(request) + 1, int(request) + 50):
            good(str(number))
    good(request)


def begin_turns(count: int) -> None:
    for number in range(count):
        turn = {"id": f"u{number}", "status": "inProgress"}
        say({"method": "turn/started", "params": {"threadId": f"t{number}", "turn": turn}})


def chatter(count: int) -> None:
    for _ in range(count):
        say(NOTE)


def ask(count: int, **params: object) -> None:
    for number in range(count):
        method = "item/commandExecution/requestApproval"
        say({"id": f"ask{number}", "method": method, "params": params})


def ignore_the_end() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    global stubborn  # noqa: PLW0603 - a core is one process
    stubborn = True


stubborn = False

OTHER_PHANTOM = {"threadId": "nobody's", "turnId": "none"}
NOTE = {"method": "thread/name/updated", "params": {"threadId": "t", "name": "x" * 200}}


class Row(NamedTuple):
    """What a core does, and what becomes of the request.

    Attributes:
        act: What it does.
        fate: `answered`, `unreadable` (-32603, the core lives), `lost` (the core does not),
            or `open`: nothing came that could be its answer, and the core lives.
    """

    act: Callable[[str], object]
    fate: str


ROWS: dict[str, Row] = {
    # answers
    "not utf-8": Row(line('{"id":ID,"result":"\u00e4"}', encoding="latin-1"), "unreadable"),
    "nan": Row(line('{"id":ID,"result":NaN}'), "unreadable"),
    "deep": Row(line('{"id":ID,"result":' + "[" * 5000 + "]" * 5000 + "}"), "unreadable"),
    "cut": Row(line('{"id":ID,"result":{"a":'), "unreadable"),
    "two on a line": Row(line('{"id":ID,"result":{}}{"id":ID,"result":{}}'), "unreadable"),
    "byte order mark": Row(line('\ufeff{"id":ID,"result":{}}'), "unreadable"),
    "nul": Row(line('{"id":ID,"result":{}}\0'), "unreadable"),
    "python's words": Row(line('{"id":ID,"result":None}'), "unreadable"),
    "id last": Row(line('{"result":Infinity,"id":ID}'), "unreadable"),
    "big number": Row(line('{"id":ID,"result":{"good":' + "9" * 4000 + "}}"), "answered"),
    "carriage return": Row(line('{"id":ID,"result":{"good":true}}\r'), "answered"),
    "empty lines": Row(then_good(lambda: raw(b"\n\r\n\n" * 500)), "answered"),
    "dripping": Row(drip, "answered"),
    "repeated": Row(repeat, "answered"),
    "ahead": Row(run_ahead, "answered"),
    "another id": Row(line('{"id":987654,"result":{}}'), "open"),
    "silence": Row(lambda _request: None, "open"),
    # floods
    "garbage": Row(line("\n".join(["this is {no json"] * 1000)), "lost"),
    "a line without end": Row(never_end_a_line, "lost"),
    "notifications": Row(then_good(lambda: chatter(5000)), "answered"),
    "stderr": Row(then_good(lambda: os.write(2, b"words\n" * 20_000)), "answered"),
    "stderr without end": Row(
        then_good(lambda: os.write(2, b"\xff\0\x1b[2J" * 50_000)), "answered"
    ),
    "turns": Row(lambda _request: begin_turns(10_002), "lost"),
    "questions": Row(lambda _request: ask(4_098, threadId="t"), "lost"),
    # work that nobody can see or end
    "phantom turn": Row(then_good(lambda: begin_turns(1)), "answered"),
    "phantom question": Row(then_good(lambda: ask(1, **OTHER_PHANTOM)), "answered"),
    "question of nobody": Row(then_good(lambda: ask(1)), "answered"),
    # ends and pipes
    "exit": Row(lambda _request: os._exit(0), "lost"),
    "failure": Row(lambda _request: os._exit(3), "lost"),
    "killed": Row(dying(signal.SIGKILL), "lost"),
    "broken": Row(dying(signal.SIGSEGV), "lost"),
    "half a line": Row(leave_half_a_line, "lost"),
    "a child has its pipes": Row(leave_the_pipes_to_a_child, "lost"),
    "mute": Row(closing(1), "lost"),
    "deaf": Row(closing(0), "lost"),
    "deaf and mute": Row(closing(0, 1, 2), "lost"),
    "without stderr": Row(then_good(lambda: os.close(2)), "answered"),
    "stopped": Row(stop, "lost"),
    "asleep": Row(sleep, "lost"),
    "another program": Row(lambda _request: os.execvp(SLEEP[0], SLEEP), "lost"),  # noqa: S606
    "stubborn": Row(then_good(ignore_the_end), "answered"),
    "with a child": Row(
        then_good(lambda: subprocess.Popen(SLEEP, start_new_session=True)), "answered"
    ),
}


def take(message: dict[str, Any], row: Row) -> None:
    """Handle a message."""
    match message.get("method"):
        case "initialize":
            say({"id": message["id"], "result": {"userAgent": "hostile/1", "codexHome": "/"}})
        case "model/list":
            row.act(json.dumps(message["id"]))
        case _:
            if "id" in message and "method" in message:
                good(json.dumps(message["id"]))


def main() -> None:
    """Serve stdin."""
    for each in sys.stdin.buffer:
        take(json.loads(each), ROWS[sys.argv[1]])
    if stubborn:
        time.sleep(FOREVER_S)


if __name__ == "__main__":
    main()
