"""How much of anything the proxy holds, and for how long: one table, every row an option.

A field `max_in_flight` is the option `--max-in-flight` and `TRACE_PROXY_MAX_IN_FLIGHT`;
an ending `_s` (seconds) is left out of the option's name. README's "What happens when"
says what is seen at each.

Two rules give the small numbers a meaning. A bound in bytes always lets one message
into an empty queue, so it may be smaller than a message. And the whole proxy's bound
may be smaller than one connection's: the tighter one decides.

This module only holds and checks numbers: `flow`, `door` and the shells obey them.
"""

from dataclasses import dataclass, field, fields
from typing import Any, Final

from trace_proxy.errors import ConfigurationError

KIB: Final = 1024
MIB: Final = 1024 * KIB

MAX_COUNT: Final = 2**40
"""A terabyte, a trillion messages: beyond it a number is a slip, not a bound."""

MAX_SECONDS: Final = 31_536_000.0
"""A year: longer than any process, and short enough for every event loop's timer."""

_NO_BOUNDS: Final = (
    "max_message_bytes",
    "max_core_line_bytes",
    "large_message_bytes_per_second",
    "max_unfinished_bytes",
)
"""What one document may measure, and a speed: see `Limits.all_ones`."""

_ZERO_IS_OFF: Final = ("ping_interval_s",)


def option_of(field_name: str) -> str:
    """The option of a field: `client_stall_s` is `--client-stall`."""
    return "--" + field_name.removesuffix("_s").replace("_", "-")


def check_count(field_name: str, value: int, *, least: int = 1, most: int = MAX_COUNT) -> None:
    """Refuse a whole number outside `least` to `most`, by the name of its option.

    Raises:
        ConfigurationError: It is outside.
    """
    if not least <= value <= most:
        raise ConfigurationError(
            f"{option_of(field_name)} is {value}: give a whole number from {least} to {most}"
        )


def check_seconds(field_name: str, value: float, *, zero: bool = False) -> None:
    """Refuse a time that is negative, infinite, not a number, or zero unless `zero`.

    Raises:
        ConfigurationError: It is refused.
    """
    if not (0 < value <= MAX_SECONDS or (zero and value == 0)):
        least = "0 or more" if zero else "more than 0"
        raise ConfigurationError(
            f"{option_of(field_name)} is {value:g}: give seconds, {least} and at most a year"
        )


def _bound(default: float, meaning: str) -> Any:
    """A field whose meaning the help shows."""
    return field(default=default, metadata={"help": meaning})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Every bound of the proxy. Counts and bytes are at least 1, seconds above 0.

    Raises:
        ConfigurationError: A value is out of range; the message names its option.
    """

    # Who may connect: enough for any team on one machine, few enough for 1,024 descriptors.
    max_connections: int = _bound(1024, "connections in all; more get 503")
    # A browser opens 6 to a host, a bridge a few dozen; one address must not take them all.
    max_connections_per_ip: int = _bound(64, "connections from one address; more get 503")
    # A handshake is two packets: 10 s forgives a bad mobile link, not an idle socket.
    handshake_timeout_s: float = _bound(10.0, "time to finish the websocket handshake")
    initialize_timeout_s: float = _bound(10.0, "time to send initialize; then Close 1008")

    # Users send images: the reference's hard cut at this size kills threads for them.
    max_message_bytes: int = _bound(
        16 * MIB, "one message; more is answered with an error, above 4 times Close 1009"
    )
    # Below it the proxy and a core in Python are done with a message in half a millisecond.
    large_message_bytes: int = _bound(32 * KIB, "from here on a message is large: see next")
    # Each 15 MiB hold the loop for a tenth of a second, there and back, and a core for longer:
    # fifteen seconds apart they touch less than one in a hundred of the neighbours' requests.
    large_message_bytes_per_second: int = _bound(
        MIB, "of one client's large messages handled, while others are connected"
    )
    # Eight messages of the full size; a thousand clients could hold sixteen gigabytes else.
    max_unfinished_bytes: int = _bound(
        128 * MIB, "input of all clients that is not handled yet; the largest is cut, 1013"
    )
    # A message of the full size on a line of 5 Mbit/s.
    unfinished_timeout_s: float = _bound(30.0, "time to finish a message; then Close 1008")
    # Load balancers cut who is silent for a minute; 0 turns it off.
    ping_interval_s: float = _bound(25.0, "after such a silence a client is pinged; 0: never")
    ping_timeout_s: float = _bound(20.0, "and after so much more without a word it is gone")
    # A client that pipelines a whole session stays far below; a flooder meets it at once.
    max_in_flight_per_connection: int = _bound(
        256, "requests of one connection under way; more are answered -32001"
    )
    # Two messages of the full size may be on their way at once.
    max_in_flight_bytes_per_connection: int = _bound(32 * MIB, "and their bytes together")
    # Eight busy connections; what a core works off in a fraction of a second.
    max_in_flight: int = _bound(2048, "requests of all connections under way")
    max_in_flight_bytes: int = _bound(64 * MIB, "and their bytes together")
    # Not answerable with an error, so the queue for them ends the connection when full.
    max_client_answers: int = _bound(
        256, "answers and notifications of one client that wait for the core; then Close 1008"
    )

    # As many as may be under way in all: what was admitted finds room.
    max_core_queue_messages: int = _bound(2048, "messages that wait for one core's stdin")
    max_core_queue_bytes: int = _bound(16 * MIB, "and their bytes together")
    # As many as may be under way in all; the reference server gets at most 64 (see pool).
    max_core_outstanding: int = _bound(
        2048, "requests that one core works on at a time; codex app-server gets 64 at most"
    )
    # A core answers in its own order: its other clients wait behind these.
    max_core_outstanding_per_connection: int = _bound(
        64, "of those, requests of one connection; more wait for their turn"
    )
    # A pipe holds 64 KiB: a core that takes nothing for so long has hung.
    core_stall_s: float = _bound(10.0, "time without input taken or output until a core has hung")
    # The reference server needs 0.2 s; a large store on a slow disk may need some seconds.
    core_start_timeout_s: float = _bound(30.0, "time to answer initialize until a core has hung")
    # A thread with images comes back as one line, several times a message's size.
    max_core_line_bytes: int = _bound(64 * MIB, "one line of a core; a longer one restarts it")

    # Text deltas of one item are joined from here on; nothing is lost by it.
    soft_client_queue_bytes: int = _bound(MIB, "bytes to one client until deltas are joined")
    soft_client_queue_messages: int = _bound(2048, "messages to one client until then")
    soft_client_queue_timeout_s: float = _bound(10.0, "time above that until deltas are joined")
    # A slow consumer may cost this much memory, then it goes and may resume its thread.
    max_client_queue_bytes: int = _bound(8 * MIB, "bytes to one client; then Close 1013")
    max_client_queue_messages: int = _bound(32_768, "messages to one client; then Close 1013")
    client_stall_s: float = _bound(10.0, "time without progress to a client; then Close 1013")
    # The peer that reads slowly gets a little longer to read why.
    slow_close_timeout_s: float = _bound(5.0, "time for a slow client to take that Close")
    # Thirty-two clients at the hard bound; the largest queue goes first.
    max_client_queues_bytes: int = _bound(256 * MIB, "bytes to all clients together")
    # Pongs and closes are a few bytes; a client that asks for more is flooding.
    max_control_messages: int = _bound(128, "pongs and closes to one client; then it is cut")

    # The last words of a core that dies; older ones are only counted.
    max_core_stderr_bytes: int = _bound(64 * KIB, "held of an unfinished line of a core's stderr")
    max_core_stderr_lines_per_second: int = _bound(100, "lines of it that are logged each second")
    # One bad line is an accident, a hundred in ten seconds are not.
    max_core_faults: int = _bound(100, "bad lines of one core within the window; then restart")
    core_fault_window_s: float = _bound(10.0, "that window")

    def __post_init__(self) -> None:
        for bound in fields(self):
            value = getattr(self, bound.name)
            if isinstance(bound.default, float):
                check_seconds(bound.name, value, zero=bound.name in _ZERO_IS_OFF)
            else:
                check_count(bound.name, value)

    @property
    def cut_message_bytes(self) -> int:
        """Above this a message closes its connection (1009) instead of being answered."""
        return 4 * self.max_message_bytes

    @classmethod
    def all_ones(cls) -> "Limits":
        """Every bound at 1: the cheapest finder of deadlocks, for tests.

        One client with one request at a time must still be served by it. What one
        document may measure stays: at one byte no message would be legal at all. So does
        a speed: at one byte a second every message would be late.
        Tests with more clients `dataclasses.replace` the two bounds on connections.
        """
        ones: dict[str, Any] = {
            bound.name: 1.0 if isinstance(bound.default, float) else 1
            for bound in fields(cls)
            if bound.name not in _NO_BOUNDS
        }
        return cls(**ones)
