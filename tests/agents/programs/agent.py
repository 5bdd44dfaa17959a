"""A scripted ACP agent on stdio, standard library only.

A prompt's text is a list of words, done one after the other:

    say:TEXT       a chunk of its message
    meta           a chunk: the `_meta` that the prompt came with, as JSON
    tool:KIND      a tool call that begins and completes
    broken:KIND    one that fails
    open:KIND      one that nobody ends
    ask:KIND       asks for permission for a tool call; declined, the call fails
    read           asks the client for a file
    sleep:SECONDS
    wait           goes on only when the prompt is cancelled
    deaf           waits for ever, whatever it hears
    error          the prompt is answered with an error
    exit:CODE      the process ends
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from queue import Queue
from typing import Any

Json = dict[str, Any]

_lock = threading.Lock()
_answers: dict[str, "Queue[Json]"] = {}
_cancelled: dict[str, threading.Event] = {}


class AnsweredError(Exception):
    """The prompt ends with an error."""


def write(message: Json) -> None:
    """Say something, whole."""
    data = memoryview(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
    with _lock:
        while data:
            data = data[os.write(1, data) :]


def update(session: str, **change: object) -> None:
    """Tell of a session."""
    write({"method": "session/update", "params": {"sessionId": session, "update": change}})


def say(session: str, text: str) -> None:
    """A chunk of the agent's message."""
    content = {"type": "text", "text": text}
    update(session, sessionUpdate="agent_message_chunk", content=content)


def ask(method: str, params: Json) -> Json:
    """Ask the client; returns its answer."""
    key = f"ask-{len(_answers)}"
    queue = _answers[key] = Queue()
    write({"id": key, "method": method, "params": params})
    return queue.get()


class Prompt:
    """One prompt."""

    def __init__(self, params: Json) -> None:
        self.session: str = params["sessionId"]
        self.meta = params.get("_meta")
        self.words = params["prompt"][0]["text"].split()
        self.tools = 0
        self.cancelled = _cancelled[self.session] = threading.Event()

    def run(self) -> Json:
        """Do all words; returns the result."""
        for word in self.words:
            name, _, rest = word.partition(":")
            does: Callable[[str], None] = getattr(self, f"do_{name}")
            does(rest)
            if self.cancelled.is_set():
                return {"stopReason": "cancelled"}
        usage = {"totalTokens": 30, "inputTokens": 10, "outputTokens": 20}
        return {"stopReason": "end_turn", "usage": usage}

    def do_say(self, text: str) -> None:
        say(self.session, text)

    def do_meta(self, _: str) -> None:
        say(self.session, json.dumps(self.meta))

    def _begin(self, kind: str) -> str:
        self.tools += 1
        tool = f"call-{self.tools}"
        update(
            self.session,
            sessionUpdate="tool_call",
            toolCallId=tool,
            title="rm -rf CANARY",
            kind=kind,
            status="pending",
        )
        return tool

    def _end(self, tool: str, status: str) -> None:
        for each in ("in_progress", status):
            change = {"sessionUpdate": "tool_call_update", "toolCallId": tool, "status": each}
            update(self.session, **change)

    def do_tool(self, kind: str) -> None:
        self._end(self._begin(kind), "completed")

    def do_broken(self, kind: str) -> None:
        self._end(self._begin(kind), "failed")

    def do_open(self, kind: str) -> None:
        self._begin(kind)

    def do_ask(self, kind: str) -> None:
        tool = self._begin(kind)
        options = [
            {"optionId": "yes", "name": "Do it", "kind": "allow_once"},
            {"optionId": "no", "name": "Leave it", "kind": "reject_once"},
        ]
        params = {"sessionId": self.session, "toolCall": {"toolCallId": tool}, "options": options}
        answer = ask("session/request_permission", params)
        outcome = answer.get("result", {}).get("outcome", {})
        self._end(tool, "completed" if outcome.get("optionId") == "yes" else "failed")

    def do_read(self, _: str) -> None:
        ask("fs/read_text_file", {"sessionId": self.session, "path": "/CANARY"})

    def do_sleep(self, seconds: str) -> None:
        time.sleep(float(seconds))

    def do_wait(self, _: str) -> None:
        self.cancelled.wait()

    def do_deaf(self, _: str) -> None:
        threading.Event().wait()

    def do_error(self, _: str) -> None:
        raise AnsweredError

    def do_exit(self, code: str) -> None:
        os._exit(int(code))


def prompt(message: Json) -> None:
    """Run a prompt and answer it."""
    running = Prompt(message["params"])
    try:
        write({"id": message["id"], "result": running.run()})
    except AnsweredError:
        write({"id": message["id"], "error": {"code": -32603, "message": "CANARY"}})


def take(message: Json) -> None:
    """Handle one message."""
    method, request = message.get("method"), message.get("id")
    if method is None:
        _answers[str(request)].put(message)
    elif method == "session/prompt":
        threading.Thread(target=prompt, args=(message,), daemon=True).start()
    elif method == "session/cancel":
        event = _cancelled.get(message["params"]["sessionId"])
        if event is not None:
            event.set()
    elif method == "initialize":
        info = {"name": "scripted", "version": "1"}
        write({"id": request, "result": {"protocolVersion": 1, "agentInfo": info}})
    elif method == "session/new":
        write({"id": request, "result": {"sessionId": "session-1"}})
    elif request is not None:
        write({"id": request, "error": {"code": -32601, "message": "Method not found"}})


if __name__ == "__main__":
    for line in sys.stdin.buffer:
        take(json.loads(line))
