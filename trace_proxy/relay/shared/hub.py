"""The decisions of a proxy whose clients share cores: events in, effects out.

Composes the machines: `gate`, `flow` and `drain` admit, `placement` and `router` send
out, `answers` and `core_messages` bring home, `pool` looks after the cores, `spans` and
`turns` watch. No await, no clock, no socket: the runtime calls with what happened and
when, and carries out what `effects` is asked for. Handling one event is one plain
call, so no event ever sees another half done.
"""

from collections.abc import Callable, Iterator

import msgspec
from msgspec import UNSET

from core_server.jsonrpc import codec
from trace_proxy.context.ids import Ids
from trace_proxy.context.trace_context import Inherited
from trace_proxy.drain import ENDING, Drain
from trace_proxy.protocol import envelope, methods
from trace_proxy.protocol.envelope import CoreMessage
from trace_proxy.queues.admission import Admission
from trace_proxy.queues.core_queue import CoreQueue, CoreQueueBounds
from trace_proxy.relay.board import Board
from trace_proxy.relay.effects import Effects
from trace_proxy.relay.shared.answers import Answers
from trace_proxy.relay.shared.core_messages import CoreMessages
from trace_proxy.relay.shared.hosts import Hosts
from trace_proxy.relay.shared.initialize import Greetings
from trace_proxy.relay.shared.merged_lists import MergedLists
from trace_proxy.relay.shared.peers import Peers
from trace_proxy.relay.shared.pool import EARLY_S, Pool, Restarts
from trace_proxy.relay.shared.requests import Requests
from trace_proxy.spans import requests as request_spans
from trace_proxy.spans.content import Content
from trace_proxy.spans.turn_spans import Turn
from trace_proxy.spans.turns import CORE_NAME
from trace_proxy.state.connection import Connection, Peer
from trace_proxy.state.core_session import CoreSession, CoreState, Fault
from trace_proxy.state.handles import closing_params
from trace_proxy.state.router import orphan


class Hub:
    """Many clients, few cores.

    Args:
        effects: The way out.
        ids: Randomness and sampling.
        cores: The pool, not started yet.
        restarts: When each of them may start again.
        admission: Bounds of what may be in flight.
        drain: When to stop.
        broadcast: Whether every notification goes to everybody.
        version: Ours, as cores see it.
        content: Puts content on spans, None when none may be recorded.
        alone: Whether there is one client only, for as long as we live.
        core_name: What agents of cores without a name are called in spans.
        advertise_url: Where other hosts of a fleet reach us; empty: there is no fleet.
        least_loaded: Whether new threads go to the host with the fewest, or stay here.
        make_queue: Makes what stands in front of another host.

    Attributes:
        hosts: All of the fleet.
    """

    def __init__(  # noqa: PLR0913 - the parts it is made of
        self,
        effects: Effects,
        ids: Ids,
        cores: list[CoreSession],
        restarts: list[Restarts],
        *,
        admission: Admission,
        drain: Drain,
        broadcast: bool,
        version: str,
        content: Content | None = None,
        alone: bool = False,
        core_name: str = CORE_NAME,
        advertise_url: str = "",
        least_loaded: bool = False,
        make_queue: Callable[[], CoreQueue] | None = None,
    ) -> None:
        fleet = bool(advertise_url)
        self.board = Board(
            effects,
            ids,
            cores,
            admission,
            drain,
            content,
            broadcast=broadcast,
            core_name=core_name,
            fleet=fleet,
        )
        greetings = Greetings(self.board, version, alone=alone)
        self.pool = Pool(self.board, greetings, restarts, self._follow)
        self._greetings = greetings
        self.hosts = Hosts(
            self.board,
            advertise_url,
            make_queue or (lambda: CoreQueue(CoreQueueBounds())),
            least_loaded=least_loaded,
        )
        merged = MergedLists(self.board)
        for_new = self.hosts.for_new if least_loaded else _here
        self._requests = Requests(self.board, greetings, self.pool, merged, for_new)
        self._peers = Peers(
            self.board, self.pool, self._requests.dispatch, advertise_url, self.hosts
        )
        self._answers = Answers(self.board, self._peers.relay)
        self._core_messages = CoreMessages(self.board, greetings, self._follow)
        self._next_key = 0

    def __repr__(self) -> str:
        return f"<Hub {self.board!r} {self.pool!r}>"

    def _follow(self, thread: str) -> bool:
        """Look for a thread elsewhere; False where there is no elsewhere, or nobody hears it."""
        return self.board.fleet and self._peers.follow(thread)

    @property
    def ready(self) -> bool:
        """Whether a core is up to take requests."""
        return self.pool.ready

    def opened(self, peer: Peer, context: Inherited) -> Connection:
        """A client has connected."""
        connection = Connection(self._next_key, peer, context)
        self._next_key += 1
        connection.attributes = request_spans.attributes_of(connection)
        self.board.joined(connection)
        return connection

    def client_message(self, connection: Connection, data: bytes, now_ns: int) -> None:
        """Take a message of a client; whatever it is, it harms nobody else."""
        self.board.now_ns = now_ns
        try:
            message = codec.decode(data)
            if message.jsonrpc is not UNSET and not connection.strict:
                connection.strict = True
                self.board.strict += 1
            if message.method is UNSET:
                self._requests.answer(connection, message)
            elif message.id is UNSET:
                self._requests.notification(connection, message)
            else:
                self._requests.request(connection, message, len(data))
        except codec.MalformedError as error:
            if error.is_response:  # to answer it would settle a request of its sender
                self.board.effects.answer_ignored()
            else:
                self.refuse_malformed(connection, error)

    def refuse_malformed(self, connection: Connection, error: codec.MalformedError) -> None:
        """Answer what is no message with an error, under its id where that can be read."""
        self.board.send(connection, codec.error(error.id, error.code, str(error)))
        self.board.effects.call_ended("_OTHER", str(error.code), 0.0)

    def closed(self, connection: Connection, now_ns: int) -> None:
        """A client has left: its requests are orphaned, what it started goes on."""
        board = self.board
        board.now_ns = now_ns
        ended_by = request_spans.DRAIN if board.drain.state in ENDING else ""
        for pending in list(connection.in_flight.values()):
            pending.ended_by = ended_by
            board.settled(pending, error=request_spans.CONNECTION_LOST)
        orphan(connection)
        self._withdraw(connection)
        board.left(connection)
        board.initialized.pop(connection.key, None)
        board.server_requests.leave(connection)
        board.subscribers.leave(connection)
        self._greetings.leave(connection)
        self._requests.leave(connection)
        if connection.strict:
            board.strict -= 1
        self._release_handles(connection)

    def _withdraw(self, connection: Connection) -> None:
        """Forget what it asked and no core has been given yet."""
        for core in (*self.board.cores, *self.board.peers.values()):
            if not len(core.queue):
                continue
            for line in core.queue.drop(connection.key):
                core_id = envelope.request_id(line)
                pending = None if core_id is None else core.router.withdraw(core_id)
                if pending is not None:
                    self.board.not_started(pending)
                    if pending.then is not None:  # one of several cores asked for it
                        pending.then(None)

    def _release_handles(self, connection: Connection) -> None:
        """End the processes, watches and searches that nobody can name any more."""
        for (method, handle), index in connection.handles.items():
            family = methods.HANDLES[method]
            core = self.board.cores[index]
            if core.state is not CoreState.FAILED:
                params = closing_params(family, handle, connection.key)
                self.board.ask(core, family.closes, params, lambda _: None)

    def core_started(self, core: CoreSession, now_ns: int) -> None:
        """A process of a core runs."""
        self.board.now_ns = now_ns
        self.pool.started(core)

    def core_lost(
        self,
        core: CoreSession,
        now_ns: int,
        now_s: float,
        exit_code: int | None = None,
        lived_s: float = EARLY_S,
    ) -> float | None:
        """A core's process is gone, or could not be started.

        Returns:
            Seconds until it shall be started again, None for never.
        """
        self.board.now_ns = now_ns
        return self.pool.lost(core, now_s, exit_code, lived_s)

    def peer_lost(self, core: CoreSession, now_ns: int) -> None:
        """Another host is gone, or cannot be reached."""
        self.board.now_ns = now_ns
        self._peers.lost(core)

    def tick(self, now_s: float, now_ns: int) -> None:
        """Some time has passed: cores have read more, threads have moved to other hosts."""
        alone = self.board.admission.alone
        for core in self.board.cores:
            if core.queue.tick(alone=alone):
                self.board.pump(core)
        if self.board.fleet:
            self.board.now_ns = now_ns
            self.hosts.tick(now_s)
            self._peers.tick(now_s)

    def drain_began(self, now_ns: int) -> None:
        """No new work comes: our cores give their threads up as their turns end."""
        board = self.board
        board.now_ns = now_ns
        if not board.fleet:
            return

        def released(_: CoreMessage | None) -> None:
            board.releasing -= 1

        for core in board.cores:
            if core.state is CoreState.READY:
                board.releasing += 1
                board.ask(core, "host/drain", b"{}", released, at_once=True)

    def core_lines(
        self, core: CoreSession, lines: Iterator[envelope.Decoded], now_ns: int
    ) -> Fault | None:
        """Take lines of a core, which came together, up to the first that is faulty.

        Returns:
            What is wrong with that one, None when no line is left. Faulty lines go nowhere,
            and whoever calls goes on with the next one.
        """
        self.board.now_ns = now_ns
        take, says = self._answers.take, self._core_messages
        try:
            for line, message in lines:
                if message.method is UNSET:
                    if says.run:
                        says.deliver_run()
                    if not take(core, message):
                        return Fault("an answer to no request in flight", len(line))
                elif message.id is UNSET:
                    says.notification(core, message, line)
                else:
                    says.deliver_run()
                    says.request(core, message, line)
        except envelope.GarbageError as error:
            return self._garbage(core, error)
        finally:
            says.deliver_run()
            if len(core.queue):  # the answers have made room in its window
                self.board.pump(core)
        return None

    def interrupt(self, turn: Turn) -> None:
        """Ask a turn to end because of the drain, past everything that waits."""
        if turn.core.url:
            return  # another host runs it, and does not end
        turn.ended_by = request_spans.DRAIN
        params = msgspec.json.encode({"threadId": turn.thread, "turnId": turn.turn_id})
        self.board.ask(turn.core, "turn/interrupt", params, lambda _: None, at_once=True)

    def deadline(self) -> None:
        """The drain waits no longer: interrupt what runs."""
        for turn in self.board.turns:
            self.interrupt(turn)

    def _garbage(self, core: CoreSession, error: envelope.GarbageError) -> Fault:
        """A line that can be handed on to nobody; who waits for it must not wait for ever."""
        if error.answers is not None and error.answers.isdigit():  # as our ids are
            self._answers.unusable(core, int(error.answers))
        return Fault(str(error), error.size)

    def end_turns(self) -> None:
        """Tell who listens that all turns are over: nobody waits for their cores any longer."""
        self.pool.end_turns()

    def core_writable(self, core: CoreSession, *, writable: bool) -> None:
        """A core's stdin is full, or has room again."""
        core.input(writable=writable)
        if core.queue.writable and len(core.queue):
            self.board.pump(core)


def _here() -> None:
    """New threads stay where their client is connected."""
