"""A whole hub with clients and cores that do as they please, and what must hold whatever they do.

`do` takes one step named by an action and three numbers, so that Hypothesis and a seeded
simulation can both drive it. After every step everything that came out is checked:
each answer went to its asker under its own id, nobody heard what was not for them.
`finish` ends all work and checks that nothing is left and every span is there once.
"""

from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec

from tests.trace_proxy.fake_core import FakeCore, Shelf
from tests.trace_proxy.people import IDS, METHODS, Person, Wire, check_spans
from tests.trace_proxy.recording import Json, Proxy
from trace_proxy.drain import Drain, State
from trace_proxy.queues.admission import AdmissionBounds
from trace_proxy.queues.core_queue import LONG_BYTES, CoreQueueBounds
from trace_proxy.state.core_session import CoreState

MAX_CLIENTS: Final = 5


class World:
    """The hub, its clients and its cores.

    Args:
        cores: How many cores.
        tight: Whether all bounds are 1.
    """

    def __init__(self, *, cores: int, tight: bool) -> None:
        self.drain = Drain(timeout_s=0)
        unread_bytes = 2 * LONG_BYTES
        if tight:
            queue = CoreQueueBounds(window=1, max_messages=1, unread_bytes=unread_bytes)
        else:
            queue = CoreQueueBounds(window=4, unread_bytes=unread_bytes)
        most = AdmissionBounds(connection_max_requests=1, proxy_max_requests=2)
        self.proxy = Proxy(
            cores,
            queue=queue,
            admission=most if tight else AdmissionBounds(),
            drain=self.drain,
            most_restarts=3,
        )
        self.shelf = Shelf()
        self.cores = [FakeCore(core, self.shelf) for core in self.proxy.cores]
        self.people: list[Person] = []
        self.subscribed: dict[str, set[int]] = {}
        self.serial = 0
        self.requests = 0
        self.settled = 0
        self.now_s = 0.0
        self.actions: dict[str, Callable[[int, int, int], None]] = {
            name.removeprefix("_do_"): getattr(self, name)
            for name in dir(self)
            if name.startswith("_do_")
        }

    def do(self, action: str, a: int, b: int, c: int) -> None:
        """Take one step and check what came of it."""
        self.actions[action](a, b, c)
        self.check()

    # ---- clients

    def _do_connect(self, a: int, b: int, c: int) -> None:
        if len(self.people) < MAX_CLIENTS and self.drain.state is not State.DRAINING:
            person = Person(self.proxy.connect(), strict=a % 2 == 1, experimental=b % 2 == 1)
            self.people.append(person)
            if c % 4:
                self._initialize(person)

    def _initialize(self, person: Person) -> None:
        capabilities = {"experimentalApi": person.experimental}
        params = {"clientInfo": {"name": "p", "version": "1"}, "capabilities": capabilities}
        self._request(person, b"0", "initialize", params)

    def _do_initialize(self, a: int, _b: int, _c: int) -> None:
        if self.people:
            self._initialize(self._person(a))

    def _do_request(self, a: int, b: int, c: int) -> None:
        if not self.people:
            return
        person, request_id = self._person(a), IDS[c % len(IDS)]
        method, about_thread = METHODS[b % len(METHODS)]
        params: Json = {}
        if about_thread:
            params["threadId"] = self._thread(c)
        if method in ("command/exec", "fs/watch", "fs/unwatch"):
            params["processId" if method == "command/exec" else "watchId"] = f"h{a % 2}"
        if c % 4 == 0:
            params["image"] = "x" * LONG_BYTES
        self._request(person, request_id, method, params)

    def _request(self, person: Person, request_id: bytes, method: str, params: Json) -> None:
        self.serial += 1
        self.requests += 1
        if request_id in person.waiting.values():  # else we could not tell whose a refusal is
            request_id = b"%d" % (1000 + self.serial)
        person.waiting[self.serial] = request_id
        body = msgspec.json.encode({**params, "serial": self.serial})
        version = b'"jsonrpc":"2.0",' if person.strict else b""
        text = b'{%b"id":%b,"method":"%b","params":%b}'
        person.client.raw(text % (version, request_id, method.encode(), body))

    def _do_tick(self, _a: int, _b: int, _c: int) -> None:
        self.proxy.hub.tick(self.now_s, self.proxy.tick())

    def _do_babble(self, a: int, b: int, _c: int) -> None:
        if self.people:
            texts = (b"{", b"[]", b'{"method":"note"}', b'{"id":{},"method":"x"}', b'{"id":5}')
            person, text = self._person(a), texts[b % len(texts)]
            errors = 0 if text == texts[2] else 1
            before = len(self.proxy.effects.sent.get(person.client.key, []))
            person.client.raw(text)
            sent = self.proxy.effects.sent.get(person.client.key, [])
            assert len(sent) - before == errors
            del sent[before:]

    def _do_leave(self, a: int, _b: int, _c: int) -> None:
        if self.people:
            person = self._person(a)
            self.people.remove(person)
            self.settled += len(person.waiting)
            for heard in self.subscribed.values():
                heard.discard(person.client.key)
            person.client.leave()

    def _do_decide(self, a: int, b: int, c: int) -> None:
        """Answer a server request: with its id, as a string, or one that was never asked."""
        if not self.people:
            return
        person = self._person(a)
        ids = list(person.asked)
        known = ids[b % len(ids)] if ids else 77
        spelling = (b"%d", b'"%d"', b"1%d", b"%d", b"%d")[c % 5] % known
        person.client.raw(b'{"id":%b,"result":{"decision":"accept"}}' % spelling)

    # ---- cores

    def _do_start(self, a: int, _b: int, _c: int) -> None:
        core = self._core(a)
        if core.may_start:
            core.start()

    def _do_crash(self, a: int, b: int, _c: int) -> None:
        core = self._core(a)
        if core.running and b % 3 == 0:
            self.now_s += b
            core.crash(self.now_s)

    def _do_answer(self, a: int, b: int, c: int) -> None:
        core = self._core(a)
        if not core.running or not core.asked:
            return
        index = b % len(core.asked)
        if c % 8 == 0 and core.asked[index]["method"] != "initialize":
            core.fail(core.asked.pop(index))
        else:
            core.answer(index)
        if self.drain.state is State.STARTING and self.proxy.hub.pool.ready:
            self.drain.serving()

    def _do_stray(self, a: int, b: int, c: int) -> None:
        """Answers to nothing, and garbage, change nothing."""
        core = self._core(a)
        if core.running:
            asked = {each["id"] for each in core.asked}
            stray = b if b not in asked else -1
            spelling: Json = (stray, str(stray), None, 1.5, [])[c % 5]
            assert core.core.say({"id": spelling, "result": {"serial": 1}}) != ""
            assert not self.proxy.effects.sent

    def _do_push(self, a: int, b: int, c: int) -> None:
        core = self._core(a)
        if not core.running or core.core.session.state is not CoreState.READY:
            return
        loaded = sorted(core.loaded)
        if not loaded or b % 7 == 0:
            core.core.notify("account/updated", {"n": b})
            return
        thread = loaded[c % len(loaded)]
        if thread not in core.turns:
            core.begin_early(thread)
        elif b % 4 == 0:
            core.complete(thread, ("completed", "failed", "interrupted")[c % 3])
        else:
            core.work(thread, b + c)

    def _do_ask(self, a: int, b: int, _c: int) -> None:
        core = self._core(a)
        if not core.running or core.core.session.state is not CoreState.READY:
            return
        choices = [None, *sorted(core.loaded)]
        core.ask(choices[b % len(choices)])

    def _do_pipe(self, a: int, b: int, _c: int) -> None:
        self.proxy.hub.core_writable(self._core(a).core.session, writable=b % 3 != 0)

    def _do_output(self, a: int, _b: int, c: int) -> None:
        """Output of a handle: only its owner hears it, under its own name."""
        core = self._core(a)
        owner = self._person(c) if self.people else None
        if core.running and owner is not None and owner.initialized:
            name = f"{owner.client.key}/h{c}"
            core.core.notify("command/exec/outputDelta", {"processId": name, "deltaBase64": ""})
            (heard,) = owner.client.heard()
            assert heard["params"] == {"processId": f"h{c}", "deltaBase64": ""}
            assert not self.proxy.effects.sent

    def _do_drain(self, a: int, b: int, c: int) -> None:
        if a % 64 == 0 and b % 2 == 0 and c % 2 == 0 and self.drain.state is State.SERVING:
            self.drain.signal("TERM", self.now_s)

    def _person(self, a: int) -> Person:
        return self.people[a % len(self.people)]

    def _core(self, a: int) -> FakeCore:
        return self.cores[a % len(self.cores)]

    def _thread(self, c: int) -> str:
        recent = self.shelf.threads[-4:]
        return recent[c % len(recent)] if recent else "unknown"

    # ---- what must hold

    def check(self) -> None:
        """Look at everything that came out, and at every counter."""
        for core in self.cores:
            core.read()
        for person in self.people:
            for raw in self.proxy.effects.sent.pop(person.client.key, []):
                self._heard(person, raw)
        assert not self.proxy.effects.sent, "only the living hear"
        board = self.proxy.hub.board
        assert self.settled + sum(len(each.waiting) for each in self.people) == self.requests
        in_flight = sum(len(each.client.connection.in_flight) for each in self.people)
        assert board.in_flight == in_flight == sum(len(each.waiting) for each in self.people)
        assert board.strict <= len(self.people)
        assert sum(core.core.session.turns for core in self.cores) == len(board.turns)
        homes = Counter(thread for core in self.cores for thread in core.loaded)
        assert not homes or max(homes.values()) == 1, "a thread lives at one core"
        pending = len(board.server_requests)
        assert pending == self.proxy.effects.pending_approvals
        assert pending <= sum(len(core.approvals) for core in self.cores)

    def _heard(self, person: Person, raw: bytes) -> None:
        message = msgspec.json.decode(raw, type=Wire)
        assert message.jsonrpc == ("2.0" if person.strict else "")
        if not message.method:
            self._answered(person, message)
        elif message.id:
            self._asked(person, message)
        else:
            self._notified(person, message)

    def _answered(self, person: Person, message: Wire) -> None:
        request_id = bytes(message.id)
        body = message.error.get("data") if message.error else message.result
        serial = body.get("serial") if isinstance(body, dict) else None
        if serial is None:  # an answer of the proxy's own
            serial = next(each for each, one in person.waiting.items() if one == request_id)
        assert person.waiting.pop(serial) == request_id, "its own id, byte for byte, once"
        self.settled += 1
        if message.error:
            return
        if "userAgent" in message.result:
            person.initialized = True
        if "thread" in message.result:
            thread = message.result["thread"]["id"]
            self.subscribed.setdefault(thread, set()).add(person.client.key)

    def _asked(self, person: Person, message: Wire) -> None:
        assert person.initialized
        thread = message.params.get("threadId")
        if thread is not None:
            assert thread in person.client.connection.threads
            assert person.client.key in self.subscribed[thread]
        asked = msgspec.json.decode(message.id, type=int)
        assert asked not in person.asked, "asked once"
        person.asked[asked] = thread

    def _notified(self, person: Person, message: Wire) -> None:
        assert person.initialized
        thread = message.params.get("threadId")
        if message.method.startswith(("item/", "turn/", "serverRequest/", "thread/tokenUsage")):
            assert person.client.key in self.subscribed[thread], message.method
        if message.method in ("thread/closed", "thread/archived"):
            self.subscribed.get(thread, set()).discard(person.client.key)

    # ---- the end

    def finish(self) -> None:
        """End all work: nothing is left, and everything has been told once."""
        self.drain.signal("TERM", self.now_s)
        for core in self.cores:
            self._end_work(core)
            self.check()
        board = self.proxy.hub.board
        assert (len(board.turns), board.in_flight, len(board.server_requests)) == (0, 0, 0)
        if self.drain.state is State.DRAINING:
            assert self.drain.work(len(board.turns), board.in_flight, 0), "the drain ends"
        while self.people:
            self._do_leave(0, 0, 0)
            self.check()
        for core in self.cores:  # handles are closed when their owner has left
            self._end_work(core)
            self.check()
        assert self.settled == self.requests
        self._check_rest()
        check_spans(self.proxy.effects.spans, self.requests, self.shelf.turns)

    def _end_work(self, core: FakeCore) -> None:
        self.proxy.hub.core_writable(core.core.session, writable=True)
        self.check()
        if not core.running:
            core.crash(self.now_s)  # as the shell does: in a drain it will not be back
            return
        while core.asked or core.turns or core.approvals:
            if core.asked:
                core.answer(0)
            for thread in list(core.turns):
                core.complete(thread, "completed")
            if core.approvals:
                core.crash(self.now_s)
            self.check()

    def _check_rest(self) -> None:
        board = self.proxy.hub.board
        assert (board.choosy, board.strict) == (0, 0)
        assert (len(board.connections), len(board.initialized)) == (0, 0)
        assert board.admission.size_bytes == 0
        assert board.subscribers.threads() == []
        for core in self.cores:
            session = core.core.session
            assert len(session.router) == len(core.asked)
            assert session.queue.outstanding == len(core.asked)
