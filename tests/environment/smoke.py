"""What must work under every Python, with nothing but the installed programs and the standard library.

A turn through the core, one through the proxy in front of it, and each way not to start:
one line, its exit code, no traceback.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
TIMEOUT_S = 60

HELLO = {
    "id": 1,
    "method": "initialize",
    "params": {"clientInfo": {"name": "smoke", "version": "1"}},
}


def run(*argv: str, text: str = "", **variables: str) -> tuple[int, str, str]:
    """Run an installed program; returns its exit code, stdout and stderr."""
    done = subprocess.run(
        [str(BIN / argv[0]), *argv[1:]],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
        env={**os.environ, **variables},
    )
    return done.returncode, done.stdout, done.stderr


def check(what: str, *, holds: bool, seen: object) -> None:
    """End with an error when it does not hold."""
    if not holds:
        sys.exit(f"{what}: {seen}")


def turn(*argv: str, state: str) -> None:
    """A whole turn, answered while stdin stays open."""
    process = subprocess.Popen(
        [str(BIN / argv[0]), *argv[1:]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_STATE_HOME": state},
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def send(message: dict[str, Any]) -> None:
        assert process.stdin is not None
        process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()

    def until(method: str = "", answer: int = 0) -> dict[str, Any]:
        assert process.stdout is not None
        for line in process.stdout:
            message: dict[str, Any] = json.loads(line)
            check("an error", holds="error" not in message, seen=message)
            if message.get("method") == method or (
                "result" in message and message["id"] == answer
            ):
                return message
        sys.exit(f"{argv}: it ended: {process.stderr and process.stderr.read()}")

    with process:
        send(HELLO)
        until(answer=1)
        send({"id": 2, "method": "thread/start", "params": {}})
        thread = until(answer=2)["result"]["thread"]["id"]
        entry = [{"type": "text", "text": "hello there"}]
        send({"id": 3, "method": "turn/start", "params": {"threadId": thread, "input": entry}})
        done = until("turn/completed")["params"]["turn"]
        check("the turn", holds=done["status"] == "completed", seen=done)
        process.stdin.close()
        check("the end", holds=process.wait(TIMEOUT_S) == 0, seen=process.returncode)


def refused(code: int, *argv: str, **variables: str) -> None:
    """It does not start, and says so in its last line."""
    ended, out, err = run(*argv, **variables)
    check(f"{argv}: exit code", holds=ended == code, seen=(ended, out, err))
    check(f"{argv}: a traceback", holds="Traceback" not in err, seen=err)
    last = err.splitlines()[-1] if err else ""
    check(f"{argv}: its line", holds=last.startswith(f"{argv[0]}: "), seen=err)


def main() -> None:
    """All of it."""
    with tempfile.TemporaryDirectory() as folder:
        turn("core-server", state=folder)
        turn("trace-proxy", "--listen", "stdio://", state=folder)
        (Path(folder) / "no.db").write_text("not a database")
        bad = f"sqlite:///{folder}/no.db"
        refused(1, "core-server", "--store", bad)
        refused(1, "core-server", "--store", "sqlite:////proc/none/threads.db")
        refused(1, "trace-proxy", "--listen", "ws://127.0.0.1:0", CORE_SERVER_STORE=bad)
        refused(2, "core-server", "--engine", "openai", OPENAI_API_KEY="", OPENAI_BASE_URL="")
        refused(2, "core-server", "--no-such-option")
        refused(2, "trace-proxy", "--no-such-option")
        for program in ("core-server", "trace-proxy"):
            for option in ("--help", "--version"):
                check(option, holds=run(program, option)[0] == 0, seen=program)
        schema = run("core-server", "schema", "--out", f"{folder}/schema")
        check("schema", holds=schema[0] == 0, seen=schema)


if __name__ == "__main__":
    main()
