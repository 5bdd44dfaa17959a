"""A tiny MCP-like server: newline JSON-RPC 2.0 on stdio, standard library only.

`tools/call` does what its `name` says (see `TOOLS`); a batch is answered with a batch.
What it hears without having to answer is told back as `notifications/heard`.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

Json = dict[str, Any]


def write(message: object) -> None:
    """Say something."""
    raw(json.dumps(message).encode())


def raw(line: bytes) -> None:
    """Say anything."""
    data = memoryview(line + b"\n")
    while data:
        data = data[os.write(1, data) :]


def take(message: Json) -> Json | None:
    """Handle one message; returns its answer."""
    if "method" in message and "id" in message:
        return {"jsonrpc": "2.0", "id": message["id"], **answer(message)}
    write({"jsonrpc": "2.0", "method": "notifications/heard", "params": message})
    return None


def answer(message: Json) -> Json:
    """What a request is answered with."""
    params = message.get("params") or {}
    match message["method"]:
        case "initialize":
            return {"result": {"serverInfo": {"name": "mcp", "pid": os.getpid()}}}
        case "echo":
            return {"result": params}
        case "tools/call":
            return {"result": TOOLS[params["name"]](**params.get("arguments", {}))}
        case _:
            return {"error": {"code": -32601, "message": "Method not found"}}


def slow(seconds: float) -> Json:
    time.sleep(seconds)
    return {"slept": seconds}


def ask() -> Json:
    """The client's answer comes later, and is told back."""
    write({"jsonrpc": "2.0", "id": "ask", "method": "sampling/createMessage", "params": {}})
    return {}


def flood(count: int, size: int) -> Json:
    for number in range(count):
        params = {"number": number, "data": "x" * size}
        write({"jsonrpc": "2.0", "method": "notifications/message", "params": params})
    return {}


def garbage(count: int) -> Json:
    for _ in range(count):
        raw(b"a banner that is {no json")
    return {}


def stop(code: int) -> Json:
    os._exit(code)


def big(size: int) -> Json:
    return {"data": "x" * size}


def stop_reading(seconds: float) -> Json:
    """Take no input, and say something now and then so as not to look hung."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.05)
        write({"jsonrpc": "2.0", "method": "notifications/alive"})
    return {}


TOOLS: dict[str, Callable[..., Json]] = {
    "slow": slow,
    "ask": ask,
    "flood": flood,
    "garbage": garbage,
    "stop": stop,
    "big": big,
    "stop_reading": stop_reading,
}


def main() -> None:
    """Serve stdin."""
    if "--stubborn" in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for line in sys.stdin.buffer:
        message = json.loads(line)
        if isinstance(message, list):
            write([each for each in map(take, message) if each is not None])
        elif (reply := take(message)) is not None:
            write(reply)
    if "--stubborn" in sys.argv:
        time.sleep(3600)


if __name__ == "__main__":
    main()
