"""What the one connection has agreed on: `initialize`, capabilities, strictness.

    NEW --initialize--> INITIALIZED

Once a client has sent `"jsonrpc":"2.0"`, every message to it carries that too.
Parameter shapes are checked before, as the reference does.
"""

from enum import Enum, auto

from core_server.errors import WireError, invalid_request
from core_server.protocol.notifications import EXPERIMENTAL
from core_server.protocol.session import InitializeParams


class State(Enum):
    """Whether the handshake is done."""

    NEW = auto()
    INITIALIZED = auto()


class Gate:
    """The session: who the client is, and what it may and wants to hear."""

    def __init__(self) -> None:
        self.state = State.NEW
        self.strict = False
        self.experimental = False
        self.model_calls = False
        self.client_name = ""
        self.client_version = ""
        self._opted_out: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"<Gate {self.state.name} {self.client_name}/{self.client_version}>"

    def initialize(self, params: InitializeParams) -> None:
        """Take the handshake.

        Raises:
            WireError: a second one, or a name that cannot be part of a user agent.
        """
        if self.state is State.INITIALIZED:
            raise invalid_request("Already initialized")
        name = params.client_info.name
        if not name.isprintable():
            raise invalid_request(
                f"Invalid clientInfo.name: {name[:256]!r}. Must be a valid HTTP header value."
            )
        self.state = State.INITIALIZED
        self.client_name, self.client_version = name, params.client_info.version
        if params.capabilities is not None:
            self.experimental = params.capabilities.experimental_api
            self.model_calls = params.capabilities.model_calls
            self._opted_out = frozenset(params.capabilities.opt_out_notification_methods or ())

    def admit(self, method: str, *, experimental: bool) -> None:
        """Let a request pass that is not `initialize`.

        Raises:
            WireError: before the handshake, or without the capability.
        """
        if self.state is State.NEW:
            raise invalid_request("Not initialized")
        if experimental and not self.experimental:
            raise needs_experimental(method)

    def wants(self, method: str) -> bool:
        """Whether the client hears this notification."""
        if self.state is State.NEW or method in self._opted_out:
            return False
        return self.experimental or method not in EXPERIMENTAL


def needs_experimental(what: str) -> WireError:
    """A method or `method.field` of the experimental surface."""
    return invalid_request(f"{what} requires experimentalApi capability")
