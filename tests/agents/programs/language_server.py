"""A scripted language server on stdio, standard library only.

    language_server.py LOG [--banner] [--slow-shutdown SECONDS]

Requests are answered with their params, `$/cancelRequest` answers what it names; every
method that it hears is a line in LOG, and so is the end of its input.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

Json = dict[str, Any]


def write(message: Json) -> None:
    """Say something."""
    body = json.dumps({"jsonrpc": "2.0", **message}, indent=1).encode()
    data = memoryview(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
    while data:
        data = data[os.write(1, data) :]


def read() -> Json | None:
    """The next message, None at the end of the input."""
    length = 0
    while (line := sys.stdin.buffer.readline()) not in (b"\r\n", b""):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    if not line:
        return None
    message: Json = json.loads(sys.stdin.buffer.read(length))
    return message


def serve(log: Path, shutdown_s: float) -> int:
    """Serve stdin; returns the exit code of the protocol: 1 without a shutdown before."""
    shut_down = False
    with log.open("a") as heard:
        while (message := read()) is not None:
            method, request = message.get("method"), message.get("id")
            heard.write(f"{method}\n")
            heard.flush()
            if method == "exit":
                return 0 if shut_down else 1
            if method == "shutdown":
                time.sleep(shutdown_s)
                shut_down = True
                write({"id": request, "result": None})
            elif method == "$/cancelRequest":
                error = {"code": -32800, "message": "cancelled"}
                write({"id": message["params"]["id"], "error": error})
            elif request is not None and method != "slow":
                write({"id": request, "result": message.get("params", {})})
        heard.write("end of input\n")
    return 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("log", type=Path)
    parser.add_argument("--banner", action="store_true")
    parser.add_argument("--slow-shutdown", type=float, default=0)
    given = parser.parse_args()
    if given.banner:
        os.write(1, b"A server that greets\n")
    raise SystemExit(serve(given.log, given.slow_shutdown))
