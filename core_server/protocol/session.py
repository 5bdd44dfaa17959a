"""The handshake: `initialize`."""

from core_server.protocol.wire import Wire


class ClientInfo(Wire, frozen=True):
    """Who the client says it is."""

    name: str
    version: str
    title: str | None = None


class Capabilities(Wire, frozen=True):
    """What the client can do and what it does not want to hear."""

    experimental_api: bool = False
    model_calls: bool = False
    """Ours: tell of every request to the model, whether or not its thread asks for it."""
    opt_out_notification_methods: tuple[str, ...] | None = None


class InitializeParams(Wire, frozen=True):
    """`initialize`."""

    client_info: ClientInfo
    capabilities: Capabilities | None = None


class ServerInfo(Wire, frozen=True):
    """Which server this is; `version` is that of the protocol (see `wire`)."""

    name: str
    version: str


class InitializeResult(Wire, frozen=True):
    """Answer of `initialize`."""

    user_agent: str
    codex_home: str
    server_info: ServerInfo
    platform_family: str = "unix"
    platform_os: str = "linux"


class RemoteControlStatus(Wire, frozen=True):
    """`remoteControl/status/changed`: there is none."""

    server_name: str
    installation_id: str
    status: str = "disabled"
    environment_id: None = None
