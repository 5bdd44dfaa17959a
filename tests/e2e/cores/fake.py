"""A core that misbehaves on command: newline JSON-RPC on stdio, standard library only.

The text of a turn says what happens (see `TURNS`), options what it is like from the
start. Everything is answered in the order it comes; what needs no answer waits.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

Json = dict[str, Any]
FOREVER_S = 3600


class Core:
    """The core."""

    def __init__(self) -> None:
        self.threads = 0
        self.turns = 0
        self.running: dict[str, str] = {}

    def write(self, message: Json) -> None:
        """Say something."""
        self.raw(json.dumps(message).encode())

    def raw(self, line: bytes) -> None:
        """Say anything."""
        data = memoryview(line + b"\n")
        while data:
            data = data[os.write(1, data) :]

    def notify(self, method: str, thread: str, **params: object) -> None:
        """Say something about a thread."""
        self.write({"method": method, "params": {"threadId": thread, **params}})

    def take(self, message: Json) -> None:
        """Handle a message."""
        method, params = message.get("method"), message.get("params") or {}
        if "id" not in message:
            return
        if method is None:
            self.answered(message)
            return
        match method:
            case "initialize":
                self.answer(message, {"userAgent": "fake/1", "codexHome": "/"})
            case "thread/start":
                self.threads += 1
                thread = f"thread-{os.getpid()}-{self.threads}"
                self.answer(message, {"thread": {"id": thread}, "model": "fake"})
            case "thread/resume":
                thread = params["threadId"]
                self.answer(message, {"thread": {"id": thread}, "model": "fake"})
                self.notify("fake/resumed", thread, pid=os.getpid())
            case "turn/start":
                self.turn(message, params)
            case "turn/interrupt":
                self.answer(message, {})
                self.end(params["threadId"], "interrupted")
            case "thread/compact/start":
                self.compact(message, params["threadId"])
            case _:
                self.small(message, method, params)

    def small(self, message: Json, method: str, params: Json) -> None:
        """Handle a request about no turn."""
        match method:
            case "model/list":
                self.answer(message, params)
            case "account/read":
                pass  # never answered
            case _:
                self.write({"id": message["id"], "error": {"code": -32601, "message": method}})

    def answer(self, message: Json, result: Json) -> None:
        """Answer a request."""
        self.write({"id": message["id"], "result": result})

    def answered(self, message: Json) -> None:
        """An approval was answered: its turn ends."""
        result = message.get("result") or {"decision": "error"}
        thread = str(message["id"]).removeprefix("ask-")
        self.notify("serverRequest/resolved", thread, requestId=message["id"])
        decision = result.get("decision")
        said = decision if isinstance(decision, str) else json.dumps(result)
        self.delta(thread, f"decided {said}")
        self.end(thread, "completed")

    def turn(self, message: Json, params: Json) -> None:
        """Run a turn."""
        thread = params["threadId"]
        word, *rest = params["input"][0]["text"].split()
        self.turns += 1
        turn = f"turn-{os.getpid()}-{self.turns}"
        self.running[thread] = turn
        self.answer(message, {"turn": {"id": turn, "status": "inProgress", "items": []}})
        self.notify("turn/started", thread, turn={"id": turn, "status": "inProgress"})
        if TURNS[word](self, thread, *rest):
            self.end(thread, "completed")

    def compact(self, message: Json, thread: str) -> None:
        """A turn that begins a while after the request for it was answered."""
        self.answer(message, {})
        time.sleep(0.4)
        turn = self.running[thread] = f"compact-{os.getpid()}"
        self.notify("turn/started", thread, turn={"id": turn, "status": "inProgress"})
        time.sleep(0.2)
        self.end(thread, "completed")

    def delta(self, thread: str, text: str) -> None:
        """Stream text."""
        turn = self.running.get(thread, "")
        self.notify("item/agentMessage/delta", thread, turnId=turn, itemId="item", delta=text)

    def end(self, thread: str, status: str) -> None:
        """End the thread's turn."""
        turn = self.running.pop(thread, None)
        if turn is not None:
            self.notify("turn/completed", thread, turn={"id": turn, "status": status, "items": []})


def hello(core: Core, thread: str) -> bool:
    core.delta(thread, "hello")
    return True


def hold(_core: Core, _thread: str) -> bool:
    """Until it is interrupted."""
    return False


def flood(core: Core, thread: str, count: str, size: str) -> bool:
    for number in range(int(count)):
        core.delta(thread, f"{number:06d}" + "x" * (int(size) - 6))
    return True


def crash(_core: Core, _thread: str) -> bool:
    os._exit(3)


def crash_with_child(_core: Core, _thread: str) -> bool:
    """A grandchild in our group is left behind."""
    subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({FOREVER_S})"])
    os._exit(3)


def keep_child(_core: Core, _thread: str) -> bool:
    subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({FOREVER_S})"])
    return True


def leave_child(_core: Core, _thread: str) -> bool:
    """A grandchild with a session of its own and no parent is left behind."""
    running, started = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            null = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(null, fd)
            os.execvp("sleep", ["sleep", str(FOREVER_S)])  # noqa: S606
        os._exit(0)
    os.wait()
    os.close(started)
    os.read(running, 1)  # ends with the exec
    os.close(running)
    return True


def hang(_core: Core, _thread: str) -> bool:
    time.sleep(FOREVER_S)
    return True


def mute(_core: Core, _thread: str) -> bool:
    """Say nothing any more, and read on."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return True


def garbage(core: Core, _thread: str, count: str) -> bool:
    for _ in range(int(count)):
        core.raw(b"this is {no json")
    return True


def partial(_core: Core, _thread: str) -> bool:
    os.write(1, b'{"method":"turn/comp')
    os._exit(4)


def unknown(core: Core, _thread: str) -> bool:
    """Answers that nobody waits for, one of them twice."""
    core.write({"id": 999_999, "result": {}})
    core.write({"id": "999999", "result": {}})
    core.write({"id": 1, "result": {}})
    return True


def big(core: Core, thread: str, size: str) -> bool:
    core.delta(thread, "x" * int(size))
    return True


def chatter(_core: Core, _thread: str, count: str) -> bool:
    """Lines on stderr."""
    line = b"a line of stderr, as long as such lines are\n" * 100
    for _ in range(int(count) // 100):
        os.write(2, line)
    return True


def ask(
    core: Core,
    thread: str,
    method: str = "item/commandExecution/requestApproval",
    *more: str,
) -> bool:
    """Ask for an approval, or anything else with more params; its answer ends the turn."""
    params = {"threadId": thread, "turnId": core.running[thread], "itemId": "item"}
    if "/" not in method:  # the names of the protocol's first version
        params = {"conversationId": thread, "callId": "item"}
    core.write(
        {
            "id": f"ask-{thread}",
            "method": method,
            "params": params | json.loads(" ".join(more) or "{}"),
        }
    )
    return False


TURNS: dict[str, Callable[..., bool]] = {
    "hello": hello,
    "hold": hold,
    "flood": flood,
    "crash": crash,
    "crash-with-child": crash_with_child,
    "keep-child": keep_child,
    "leave-child": leave_child,
    "hang": hang,
    "mute": mute,
    "garbage": garbage,
    "partial": partial,
    "unknown": unknown,
    "big": big,
    "chatter": chatter,
    "ask": ask,
}


def read_options() -> argparse.Namespace:
    """What it is like."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ignore-eof", action="store_true")
    parser.add_argument("--ignore-term", action="store_true")
    parser.add_argument("--exit-at-start", action="store_true")
    parser.add_argument("--never-greet", action="store_true")
    parser.add_argument("--with-child", action="store_true")
    parser.add_argument("--slow-start", type=float, default=0.0)
    parser.add_argument("--once", default="", help="a file: exit at start if it is there")
    return parser.parse_args()


def main() -> None:
    """Serve stdin."""
    options = read_options()
    if options.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options.exit_at_start or (options.once and os.path.exists(options.once)):  # noqa: PTH110
        sys.exit(7)
    if options.with_child:
        subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({FOREVER_S})"])
    time.sleep(FOREVER_S if options.never_greet else options.slow_start)
    core = Core()
    for line in sys.stdin.buffer:
        core.take(json.loads(line))
    if options.ignore_eof:
        time.sleep(FOREVER_S)


if __name__ == "__main__":
    main()
