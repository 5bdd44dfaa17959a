"""What the proxy knows of one client: its session, its requests in flight, its threads.

Plain records with one owner, the hub. Where bytes go is the shell's business: it finds
a connection's socket by `key`.
"""

from collections.abc import Callable

import msgspec

from trace_proxy.context.span_record import AttributeValue, SpanContext
from trace_proxy.context.trace_context import Inherited, Resolution
from trace_proxy.context.w3c import opening_of
from trace_proxy.protocol.envelope import CoreMessage
from trace_proxy.protocol.methods import Traits
from trace_proxy.queues.admission import Load
from trace_proxy.queues.core_queue import OUR_LANE
from trace_proxy.state.gate import Session


class Peer(msgspec.Struct, frozen=True):
    """Where a connection comes from.

    Attributes:
        transport: `tcp`, `unix` or `pipe`, as `network.transport` wants it.
        address: Peer address, empty where there is none.
        port: Peer port, 0 where there is none.
        websocket: Whether it speaks websocket frames.
        server_address: Our end's address, or the path of our socket.
        server_port: Our end's port, 0 where there is none.
        user: Who it is, as its token or certificate says; empty where nobody says.
        hop: It is another host of the fleet, which relays for its own clients.
    """

    transport: str
    address: str = ""
    port: int = 0
    websocket: bool = True
    server_address: str = ""
    server_port: int = 0
    user: str = ""
    hop: bool = False


class RequestSpan(msgspec.Struct, frozen=True, gc=False):
    """What is kept of a request's span until its answer comes; nothing is open meanwhile.

    Attributes:
        context: Its own ids and flags.
        resolution: The context that won, and the losers.
        start_ns: Unix nanoseconds.
        attributes: What all requests of its connection share; read, never changed.
        turn: The context of the turn that the request asks for (`turn/start`), else None.
        opening: Of a `trace` member in its trace, if that is its connection's.
    """

    context: SpanContext
    resolution: Resolution
    start_ns: int
    attributes: dict[str, AttributeValue]
    turn: SpanContext | None = None
    opening: bytes = b""


class Hop(msgspec.Struct, frozen=True, gc=False):
    """A request on its way to another host: what its CLIENT span says.

    Attributes:
        context: Of that span; the other host's SERVER span is below it.
        url: Where it went.
        start_ns: Unix nanoseconds.
    """

    context: SpanContext
    url: str
    start_ns: int


class Pending(msgspec.Struct, gc=False):
    """A request in flight.

    Attributes:
        connection: Who asked; None for the proxy itself, or once the asker has left.
        id: The asker's id, as sent.
        traits: Its method's.
        size: Bytes it is counted with.
        thread: The thread it names, if it names one.
        span: None when nobody looks (the proxy's own requests).
        then: Takes the answer instead of a client: the proxy's own requests.
        handle: (client's, core's) spelling of a handle that the answer may repeat.
        names: The handle that it opens or closes, as in `Connection.handles`.
        expects: Its core shall load `thread`, and `Placement.expect` was told so.
        about: The turn that it is about, when it was sent: its span and id.
        core: The core that it was given to, -1 for none.
        core_id: The router's id there.
        windowed: Whether it takes a place in its core's window.
        lane: Whose place that is, also when the asker has left: its key, or `OUR_LANE`.
        counted: Whether admission counted it and must be told.
        kept: Its params, in a fleet, where it may have to be asked once more elsewhere.
        hops: How often that was done.
        hop: On its way to another host: the span of that.
        ended_by: Who ended it before its time: `drain`, `overload`, `core_lost`.
    """

    connection: "Connection | None"
    id: bytes
    traits: Traits
    size: int
    thread: str | None = None
    span: RequestSpan | None = None
    then: Callable[[CoreMessage | None], None] | None = None
    handle: tuple[bytes, bytes] | None = None
    names: tuple[str, str] | None = None
    expects: bool = False
    about: tuple[SpanContext, str] | None = None
    counted: bool = False
    ended_by: str = ""
    core: int = -1
    core_id: int = -1
    windowed: bool = True
    lane: int = OUR_LANE
    kept: bytes | None = None
    hops: int = 0
    hop: Hop | None = None

    @property
    def method(self) -> str:
        """As sent."""
        return self.traits.name


SharedBy = tuple[str, bool, int | None]
"""The method, whether its context is its connection's, and the core's place."""


class Connection:
    """One client of the proxy.

    Attributes:
        key: Unique in this process; `trace_proxy.connection.id`.
        session: What `initialize` agreed, None before it.
        strict: It sent `"jsonrpc":"2.0"` and gets it back.
        context: The trace context of its handshake, resolved once.
        opening: Of a `trace` member in that trace; empty where each request has its own.
        in_flight: Its unanswered requests, keyed by identity of the pending entry.
        threads: Threads that it is subscribed to.
        handles: Handles it chose, as (opening method, handle), and the core that holds them.
        attributes: Span attributes that all its requests share.
        near: The place of the core to which its last request went; -1: none.
        load: What it has in flight, for admission.
        shared: Span attributes of its requests that have method, context's source and core in
            common, for `spans.requests`: one object each, so that an exporter encodes it once.
    """

    __slots__ = (
        "attributes",
        "context",
        "handles",
        "in_flight",
        "key",
        "load",
        "near",
        "opening",
        "peer",
        "session",
        "shared",
        "strict",
        "threads",
    )

    def __init__(self, key: int, peer: Peer, context: Inherited) -> None:
        self.key = key
        self.peer = peer
        self.context = context
        parent = context.default.parent
        self.opening = b"" if parent is None else opening_of(parent.trace_id)
        self.session: Session | None = None
        self.strict = False
        self.in_flight: dict[int, Pending] = {}
        self.threads: set[str] = set()
        self.handles: dict[tuple[str, str], int] = {}
        self.attributes: dict[str, AttributeValue] = {}
        self.load = Load()
        self.near = -1
        self.shared: dict[SharedBy, dict[str, AttributeValue]] = {}

    def __repr__(self) -> str:
        name = self.session.client_name if self.session else "not initialized"
        return (
            f"<Connection {self.key} {name} in_flight={len(self.in_flight)}"
            f" threads={len(self.threads)}>"
        )
