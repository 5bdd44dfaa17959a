"""What the proxy counts.

    metrics = Metrics()
    metrics.messages_from_clients += 1
    metrics.calls.observe("thread/read", "", 0.002)
    metrics.shed.add("overloaded")
    metrics.in_flight = lambda: len(requests)

The hot path touches plain attributes only; what is read from them, and how it is called,
`instruments` tells to whoever exports it: `prometheus` when it scrapes, `metrics_otlp`.
"""

from collections.abc import Callable, Iterable, Mapping

from trace_proxy.runtime.telemetry.metrics.instruments import (
    CallDurations,
    Distribution,
    Distributions,
    Instrument,
    Kind,
    Readings,
    Tally,
)

# Recommended for rpc.server.call.duration by the conventions.
CALL_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
# A turn is a model's work: seconds as a rule, an hour with many tools.
TURN_BOUNDS_S = (0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)
DELTA_BOUNDS_S = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
# An approval waits for a person.
APPROVAL_BOUNDS_S = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)

# Those of `gen_ai.client.token.usage` in the conventions.
TOKEN_BOUNDS = tuple(float(4**power) for power in range(14))

STATES = ("starting", "serving", "draining", "interrupting", "closing", "stopped")


def _nothing() -> int:
    return 0


def _no_queues() -> Mapping[str, int]:
    return {}


class Metrics:
    """Plain numbers to increment, callbacks to set, and one way to render them.

    Attributes:
        connections: Client connections that are open.
        messages_from_clients, messages_to_clients: Messages, by direction; likewise
            `..._from_cores`, `..._to_cores`, and `bytes_...` for their sizes.
        approvals_pending: Server requests that nobody has answered.
        core_restarts: Core processes started again.
        relayed: Requests that were taken to another host of the fleet.
        threads_owned, taken_over, fenced: Threads that our cores own in a fleet; those that they
            took from dead hosts; their writes that were refused since a thread was lost.
        drain_state: One of `STATES`.
        calls: `observe(method, error_type, seconds)` for each answered request; pass
            `_OTHER` for methods that are not known.
        turn_duration, time_to_first_delta, approval_wait: `observe(seconds)`.
        tokens: `add(type, by=n)`, type `input` or `output`.
        agents: `observe(seconds, operation, provider, model, error_type)` for each turn.
        tools: `observe(seconds, operation, tool, error_type)` for each tool call.
        agent_tokens: `observe(n, operation, provider, model, type)` for each turn.
        shed, cut, core_faults, refused: `add(reason)`.
        users: `add(user)` for each connection that has shown who it is.
        ignored: `add(what)`: an `answer` that came too late or from the wrong client, a
            `notification` whose one hearer has left. Nobody is at fault.
        context_rejected: `add(source, reason)`.
        in_flight: Callback, requests that cores have not answered.
        turns_running: Callback, turns accepted and not completed.
        queue_messages, queue_bytes: Callbacks, by the name of the queue.
        spans_exported, spans_dropped: Callbacks; `Telemetry` knows.
    """

    def __init__(self) -> None:
        self.connections = self.approvals_pending = 0
        self.messages_from_clients = self.messages_to_clients = 0
        self.messages_from_cores = self.messages_to_cores = 0
        self.bytes_from_clients = self.bytes_to_clients = 0
        self.bytes_from_cores = self.bytes_to_cores = 0
        self.core_restarts = 0
        self.relayed = self.threads_owned = self.taken_over = self.fenced = 0
        self.drain_state = STATES[0]
        self.calls = CallDurations(CALL_BOUNDS_S)
        self.turn_duration = Distribution(TURN_BOUNDS_S)
        self.time_to_first_delta = Distribution(DELTA_BOUNDS_S)
        self.approval_wait = Distribution(APPROVAL_BOUNDS_S)
        self.agents, self.tools = Distributions(TURN_BOUNDS_S), Distributions(TURN_BOUNDS_S)
        self.agent_tokens = Distributions(TOKEN_BOUNDS)
        self.tokens, self.shed, self.cut, self.ignored = Tally(), Tally(), Tally(), Tally()
        self.core_faults, self.context_rejected = Tally(), Tally()
        self.refused, self.users = Tally(), Tally()
        self.in_flight: Callable[[], int] = _nothing
        self.turns_running: Callable[[], int] = _nothing
        self.queue_messages: Callable[[], Mapping[str, int]] = _no_queues
        self.queue_bytes: Callable[[], Mapping[str, int]] = _no_queues
        self.spans_exported: Callable[[], int] = _nothing
        self.spans_dropped: Callable[[], int] = _nothing

    def instruments(self) -> list[Instrument]:
        """What there is to read, for whoever exports it."""
        return [*self._traffic(), *self._work(), *self._agents(), *self._health()]

    def _traffic(self) -> list[Instrument]:
        return [
            _gauge(
                "connections.active", "Open client connections.", lambda: [((), self.connections)]
            ),
            Instrument(
                "trace_proxy.messages",
                Kind.COUNTER,
                "Messages by direction.",
                lambda: [
                    (("from_clients",), self.messages_from_clients),
                    (("to_clients",), self.messages_to_clients),
                    (("from_cores",), self.messages_from_cores),
                    (("to_cores",), self.messages_to_cores),
                ],
                ("direction",),
            ),
            Instrument(
                "trace_proxy.transferred",
                Kind.COUNTER,
                "Sizes of the messages by direction.",
                lambda: [
                    (("from_clients",), self.bytes_from_clients),
                    (("to_clients",), self.bytes_to_clients),
                    (("from_cores",), self.bytes_from_cores),
                    (("to_cores",), self.bytes_to_cores),
                ],
                ("direction",),
                "By",
            ),
            _queues(
                "queue.messages", "Messages that wait.", lambda: self.queue_messages().items()
            ),
            _queues("queue.size", "Bytes that wait.", lambda: self.queue_bytes().items(), "By"),
        ]

    def _work(self) -> list[Instrument]:
        return [
            Instrument(
                "rpc.server.call.duration",
                Kind.HISTOGRAM,
                "From a request to its answer.",
                self.calls.read,
                ("rpc.method", "error.type"),
                "s",
            ),
            _gauge(
                "requests.in_flight", "Requests not answered.", lambda: [((), self.in_flight())]
            ),
            _gauge("turns.running", "Turns not completed.", lambda: [((), self.turns_running())]),
            _histogram("turn.duration", "Turns, from start to end.", self.turn_duration),
            _histogram(
                "turn.time_to_first_delta",
                "From a turn's start to its first output.",
                self.time_to_first_delta,
            ),
            _tally("tokens", "Tokens by type.", self.tokens, "gen_ai.token.type"),
            _gauge(
                "approvals.pending", "Approvals asked for.", lambda: [((), self.approvals_pending)]
            ),
            _histogram("approval.wait", "From the question to the answer.", self.approval_wait),
        ]

    def _agents(self) -> list[Instrument]:
        """By the conventions for generative AI, which dashboards know."""
        operation, about = (
            "gen_ai.operation.name",
            ("gen_ai.provider.name", "gen_ai.request.model"),
        )
        return [
            Instrument(
                "gen_ai.invoke_agent.duration",
                Kind.HISTOGRAM,
                "Turns, from start to end.",
                self.agents.read,
                (operation, *about, "error.type"),
                "s",
            ),
            Instrument(
                "gen_ai.execute_tool.duration",
                Kind.HISTOGRAM,
                "Tool calls, from start to end.",
                self.tools.read,
                (operation, "gen_ai.tool.name", "error.type"),
                "s",
            ),
            Instrument(
                "gen_ai.client.token.usage",
                Kind.HISTOGRAM,
                "Tokens of a turn.",
                self.agent_tokens.read,
                (operation, *about, "gen_ai.token.type"),
                "",
            ),
        ]

    def _health(self) -> list[Instrument]:
        return [
            _tally("requests.shed", "Requests refused by load or drain.", self.shed, "reason"),
            _tally(
                "messages.ignored", "Messages that concern nobody any more.", self.ignored, "what"
            ),
            _tally("connections.cut", "Connections closed by us.", self.cut, "reason"),
            _tally("connections.refused", "Who was not let in.", self.refused, "reason"),
            _tally("connections.authenticated", "Who was, by name.", self.users, "user.id"),
            _counter(
                "requests.relayed",
                "Requests taken to another host.",
                lambda: [((), self.relayed)],
            ),
            _gauge(
                "threads.owned",
                "Threads that this host of a fleet owns.",
                lambda: [((), self.threads_owned)],
            ),
            _counter(
                "threads.taken_over",
                "Threads taken from hosts that were dead.",
                lambda: [((), self.taken_over)],
            ),
            _counter(
                "writes.fenced",
                "Writes refused since another host had taken the thread.",
                lambda: [((), self.fenced)],
            ),
            _counter("core.restarts", "Cores started again.", lambda: [((), self.core_restarts)]),
            _tally("core.faults", "Core output not understood.", self.core_faults, "reason"),
            Instrument(
                "trace_proxy.drain.state",
                Kind.GAUGE,
                "1 for the state that the proxy is in.",
                lambda: [((state,), int(state == self.drain_state)) for state in STATES],
                ("state",),
            ),
            _counter("spans.exported", "Spans accepted.", lambda: [((), self.spans_exported())]),
            _counter("spans.dropped", "Spans lost.", lambda: [((), self.spans_dropped())]),
            _tally(
                "context.rejected",
                "Trace contexts that were invalid.",
                self.context_rejected,
                "source",
                "reason",
            ),
        ]


def _gauge(name: str, text: str, read: Callable[[], Readings]) -> Instrument:
    return Instrument(f"trace_proxy.{name}", Kind.GAUGE, text, read)


def _counter(name: str, text: str, read: Callable[[], Readings]) -> Instrument:
    return Instrument(f"trace_proxy.{name}", Kind.COUNTER, text, read)


def _tally(name: str, text: str, tally: Tally, *labels: str) -> Instrument:
    return Instrument(f"trace_proxy.{name}", Kind.COUNTER, text, tally.read, labels)


def _histogram(name: str, text: str, seconds: Distribution) -> Instrument:
    readings = [((), seconds)]
    return Instrument(f"trace_proxy.{name}", Kind.HISTOGRAM, text, lambda: readings, (), "s")


def _queues(
    name: str, text: str, read: Callable[[], Iterable[tuple[str, int]]], unit: str = ""
) -> Instrument:
    def readings() -> Readings:
        return [((queue,), number) for queue, number in read()]

    return Instrument(f"trace_proxy.{name}", Kind.GAUGE, text, readings, ("queue",), unit)
