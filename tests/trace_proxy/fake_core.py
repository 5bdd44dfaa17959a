"""A core that behaves, one answer at a time, for the model of the hub: threads, turns, approvals.

It knows what a real core knows, and nothing of clients. When it does what is for the test
to say; `Shelf` is the store that the cores of a pool share.
"""

from dataclasses import dataclass, field

from tests.trace_proxy.recording import Core, Json
from trace_proxy.state.core_session import CoreState


class Shelf:
    """What all cores share: ids that are never given twice, and the threads that exist."""

    def __init__(self) -> None:
        self._last = 0
        self.threads: list[str] = []
        self.turns: list[str] = []

    def next(self, prefix: str) -> str:
        self._last += 1
        return f"{prefix}{self._last}"


@dataclass
class FakeCore:
    """One core of the pool."""

    core: Core
    shelf: Shelf
    running: bool = False
    asked: list[Json] = field(default_factory=list)
    loaded: set[str] = field(default_factory=set)
    turns: dict[str, str] = field(default_factory=dict)
    early: dict[int, str] = field(default_factory=dict)
    approvals: dict[int, str | None] = field(default_factory=dict)
    decided: list[int] = field(default_factory=list)
    next_approval: int = 0

    def read(self) -> None:
        """Take what the hub has written."""
        for message in self.core.got():
            if "method" in message and "id" in message:
                self.asked.append(message)
            elif "method" not in message:
                self._decided(message["id"])

    def _decided(self, approval: int) -> None:
        assert approval < self.next_approval, "in the epoch that asked"
        assert approval not in self.decided, "answered once"
        self.decided.append(approval)
        thread = self.approvals.pop(approval, None)
        if thread is not None:
            resolved = {"threadId": thread, "requestId": approval}
            self.core.notify("serverRequest/resolved", resolved)

    def start(self) -> None:
        self.running = True
        self.core.start(greet=False)

    def crash(self, now_s: float) -> None:
        self.running = False
        self.asked.clear()
        self.loaded.clear()
        self.turns.clear()
        self.early.clear()
        self.approvals.clear()
        self.decided.clear()
        self.next_approval = 0
        self.core.got_raw()
        self.core.die(now_s)

    @property
    def may_start(self) -> bool:
        return not self.running and self.core.session.state is CoreState.DOWN

    def answer(self, index: int) -> None:
        """Do what was asked, and say so."""
        message = self.asked.pop(index)
        result = self._do(message["id"], message["method"], message.get("params") or {})
        if result is None:
            self.fail(message)
        else:
            result["serial"] = message.get("params", {}).get("serial")
            self.core.answer(message["id"], result)
            if message["method"] == "thread/resume":
                self._ask_again(message["params"]["threadId"])

    def fail(self, message: Json) -> None:
        data = {"serial": (message.get("params") or {}).get("serial")}
        error = {"code": -32600, "message": "no", "data": data}
        assert self.core.say({"error": error, "id": message["id"]}) == ""
        self.early.pop(message["id"], None)

    def _do(self, request_id: int, method: str, params: Json) -> Json:  # noqa: PLR0911 - a table
        thread = params.get("threadId")
        match method:
            case "initialize":
                return {"userAgent": "fake (trace-proxy; 9)"}
            case "thread/start" | "thread/fork":
                return self._load(self._new_thread())
            case "thread/resume":
                return self._load(thread) if thread in self.shelf.threads else None
            case "turn/start":
                return self._turn(request_id, thread)
            case "thread/archive" if thread in self.loaded:
                self._unload(thread)
                return {}
            case "thread/loaded/list":
                return {"data": sorted(self.loaded), "nextCursor": None}
            case "thread/list":
                return {"data": [{"id": each} for each in self.shelf.threads]}
            case "turn/steer" | "turn/interrupt" | "thread/archive":
                return {} if thread in self.turns else None
            case _:
                return {}

    def _new_thread(self) -> str:
        thread = self.shelf.next("t")
        self.shelf.threads.append(thread)
        return thread

    def _load(self, thread: str) -> Json:
        self.loaded.add(thread)
        return {"thread": {"id": thread}, "model": "m"}

    def _unload(self, thread: str) -> None:
        for approval in [key for key, value in self.approvals.items() if value == thread]:
            del self.approvals[approval]
        self.turns.pop(thread, None)
        self.loaded.discard(thread)
        self.core.notify(
            "thread/status/changed", {"threadId": thread, "status": {"type": "notLoaded"}}
        )
        self.core.notify("thread/archived", {"threadId": thread})

    def _turn(self, request_id: int, thread: str) -> Json:
        if thread not in self.loaded:
            return None
        early = self.early.pop(request_id, None)
        turn = early or self.turns.get(thread) or self._begin(thread)
        return {"turn": {"id": turn, "status": "inProgress"}}

    def _begin(self, thread: str) -> str:
        turn = self.shelf.next("u")
        self.turns[thread] = turn
        self.shelf.turns.append(turn)
        return turn

    def begin_early(self, thread: str | None) -> None:
        """Start a turn before its request is answered, or for no request at all."""
        if thread is None or thread in self.turns:
            return
        turn = self._begin(thread)
        self.core.notify("turn/started", {"threadId": thread, "turn": {"id": turn}})
        for message in self.asked:
            mine = (message.get("params") or {}).get("threadId") == thread
            if message["method"] == "turn/start" and mine:
                self.early[message["id"]] = turn
                return

    def complete(self, thread: str, status: str) -> None:
        turn = self.turns.pop(thread)
        params = {"threadId": thread, "turn": {"id": turn, "status": status}}
        self.core.notify("turn/completed", params)

    def work(self, thread: str, kind: int) -> None:
        """Say something about the running turn."""
        params: Json = {"threadId": thread, "turnId": self.turns[thread]}
        item = {"type": "commandExecution", "id": f"i{kind % 2}", "status": "completed"}
        match kind % 5:
            case 0:
                self.core.notify("item/started", {**params, "item": item})
            case 1:
                self.core.notify("item/completed", {**params, "item": item})
            case 2:
                delta = {**params, "itemId": "m", "delta": "x"}
                self.core.notify("item/agentMessage/delta", delta)
            case 3:
                usage = {"last": {"inputTokens": 1, "outputTokens": 2}}
                self.core.notify("thread/tokenUsage/updated", {**params, "tokenUsage": usage})
            case _:
                item = {"type": "commandExecution", "id": "i1", "status": "failed"}
                self.core.notify("item/started", {**params, "item": item})

    def ask(self, thread: str | None) -> None:
        approval = self.next_approval
        self.next_approval += 1
        self.approvals[approval] = thread
        self._ask(approval, thread)

    def _ask_again(self, thread: str) -> None:
        """Ask who resumed what is still pending, as the reference does."""
        for approval, asked in self.approvals.items():
            if asked == thread:
                self._ask(approval, thread)

    def _ask(self, approval: int, thread: str | None) -> None:
        params = {} if thread is None else {"threadId": thread, "itemId": "i0"}
        self.core.ask(approval, "item/commandExecution/requestApproval", params)
