"""A language server behind its editor: requests by name, and an end as it is used to.

    INITIALIZED? --client asks shutdown--> SHUT_DOWN --client says exit--> it ends itself
         | we have to end it                  | we have to end it
         v                                    v
      shutdown, its answer, exit             exit

Nothing is added to messages: neither a context nor a member.
"""

from typing import Final

from msgspec import UNSET

from core_server.jsonrpc.framing import Oversized
from core_server.jsonrpc.messages import Message
from trace_proxy.protocol import lsp
from trace_proxy.protocol.envelope import CoreMessage
from trace_proxy.protocol.program import INITIALIZE
from trace_proxy.relay.per_connection.watch import FINE, Verdict, Watch
from trace_proxy.state.connection import Pending

SHUTDOWN_KEY: Final = b'"trace-proxy/shutdown"'
"""The id of our `shutdown`: a string that no client uses."""


class LspWatch(Watch):
    """See the module."""

    METHODS = lsp.METHODS
    SERVER_REQUESTS = lsp.SERVER_REQUESTS
    HEADERS = True
    WATCHED = frozenset({INITIALIZE, lsp.SHUTDOWN})

    _initialized = False
    _shut_down = False

    def answered(self, pending: Pending, message: CoreMessage) -> Verdict:
        """Notice the two answers that say how it can be ended."""
        if message.result is not UNSET:
            self._initialized |= pending.method == INITIALIZE
            self._shut_down |= pending.method == lsp.SHUTDOWN
        return FINE

    def told(self, message: Message, params: bytes) -> None:  # noqa: ARG002 - it has none
        """Notice that the client ends it itself."""
        if message.method == "exit":
            self._initialized = False

    def deadline(self) -> list[bytes]:
        """Cancel what is not answered; a server answers that it was cancelled."""
        return [lsp.cancelled(each.id) for each in self.pair.connection.in_flight.values()]

    def farewell(self) -> tuple[bytes, ...]:
        """What ends it: `exit`, after a `shutdown` that has to be answered first.

        Empty where it was never initialized, or is ending already.
        """
        if not self._initialized:
            return ()
        self._initialized = False
        return (lsp.EXIT,) if self._shut_down else (lsp.shutdown(SHUTDOWN_KEY), lsp.EXIT)


def answers_farewell(line: bytes | Oversized) -> bool:
    """Whether a server's line answers our `shutdown`: nobody else uses its id."""
    return isinstance(line, bytes) and SHUTDOWN_KEY in line
