"""From a sandbox policy on the wire to what a tool is told."""

from typing import TypedDict

from core_server.protocol.wire import (
    ExternalSandbox,
    FullAccess,
    ReadOnly,
    SandboxPolicy,
    WorkspaceWrite,
)
from core_server.tools.base import Sandbox


class Confinement(TypedDict):
    """Part of a `tools.base.Command`."""

    sandbox: Sandbox
    writable_roots: tuple[str, ...]
    network: bool


def confined(policy: SandboxPolicy, cwd: str) -> Confinement:
    """What a command in `cwd` may touch."""
    match policy:
        case FullAccess() | ExternalSandbox():
            return {"sandbox": "none", "writable_roots": (), "network": True}
        case ReadOnly(network_access=network):
            return {"sandbox": "read-only", "writable_roots": (), "network": network}
        case WorkspaceWrite():
            roots = (cwd, *policy.writable_roots)
            return {
                "sandbox": "workspace-write",
                "writable_roots": roots,
                "network": policy.network_access,
            }
