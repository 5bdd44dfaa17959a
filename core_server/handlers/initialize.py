"""`initialize`: the handshake."""

import os
import platform
import socket
import uuid

from core_server import __version__
from core_server.context import Context, Reply
from core_server.protocol.session import (
    InitializeParams,
    InitializeResult,
    RemoteControlStatus,
    ServerInfo,
)
from core_server.protocol.wire import PROTOCOL_VERSION

SERVER_NAME = "core-server"
"""The proxy recognises us by it."""


def initialize(context: Context, params: InitializeParams) -> Reply:
    """Agree on a session.

    `userAgent` begins `<client>/<protocol version>`, as the reference's does: the official
    client reads the version behind the first slash (or `serverInfo.version`) as the
    server's, and refuses calls when it is below 0.151.0. Our own version follows.
    """
    context.gate.initialize(params)
    info = params.client_info
    system = f"{platform.system()} {platform.release()}; {platform.machine()}"
    agent = (
        f"{info.name}/{PROTOCOL_VERSION} ({system}) {SERVER_NAME}/{__version__}"
        f" ({info.name}; {info.version})"
    )
    result = InitializeResult(
        agent, context.config.home, ServerInfo(SERVER_NAME, PROTOCOL_VERSION)
    )
    return Reply(result, then=lambda: _announce(context))


def _announce(context: Context) -> None:
    """The reference's first word: its remote control."""
    context.notify.tell("remoteControl/status/changed", remote_control_status())


def remote_control_status() -> RemoteControlStatus:
    """There is none; the machine has a name all the same."""
    host = socket.gethostname()
    installation = str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{os.getuid()}.{host}"))
    return RemoteControlStatus(host, installation)
