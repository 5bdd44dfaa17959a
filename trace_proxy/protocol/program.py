"""Which protocol a program speaks, told by the first thing that its client asks.

All begin with `initialize`, and its params tell them apart: a `protocolVersion` that is a
number (ACP), or a date (MCP), a `processId` or `rootUri` (LSP); the app-server has none of
them. MCP since 2026-07-28 begins with anything, and marks each request in `_meta`.
"""

from enum import Enum
from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from trace_proxy.protocol import mcp

INITIALIZE: Final = "initialize"

CLIENT_CHARS: Final = 256
"""Of a client's name and version; real names are below 40."""


class Program(Enum):
    """What is behind a connection; the values are those of `--protocol`."""

    CODEX = "codex"
    ACP = "acp"
    MCP = "mcp"
    LSP = "lsp"


class _Initialize(msgspec.Struct, rename="camel"):
    protocol_version: Raw | UnsetType = UNSET
    process_id: Raw | UnsetType = UNSET
    root_uri: Raw | UnsetType = UNSET


class _Info(msgspec.Struct):
    name: str = ""
    version: str = ""
    title: str | None = None


class _Introduction(msgspec.Struct, rename="camel"):
    client_info: _Info | None = None


class _AgentIntroduction(msgspec.Struct, rename="camel"):
    agent_info: _Info | None = None


_INITIALIZE = msgspec.json.Decoder(_Initialize)
_INTRODUCTION = msgspec.json.Decoder(_Introduction)
_AGENT = msgspec.json.Decoder(_AgentIntroduction)


def program_of(method: str, params: bytes | None) -> Program | None:
    """What a request gives away; None where it could be of any protocol."""
    if method != INITIALIZE:
        marked = params is not None and mcp.VERSION_MARK in params
        return Program.MCP if marked else None
    try:
        asked = _Initialize() if params is None else _INITIALIZE.decode(params)
    except msgspec.DecodeError:
        return Program.CODEX
    version = b"" if asked.protocol_version is UNSET else bytes(asked.protocol_version)
    if version.isdigit():
        return Program.ACP
    if version[:1] == b'"' and mcp.is_version(version[1:-1].decode(errors="replace")):
        return Program.MCP
    if asked.process_id is not UNSET or asked.root_uri is not UNSET:
        return Program.LSP
    return Program.CODEX


def client_of(params: bytes | None) -> tuple[str, str]:
    """Name and version of a client, cut; empty where it does not introduce itself."""
    try:
        info = None if params is None else _INTRODUCTION.decode(params).client_info
    except msgspec.DecodeError:
        info = None
    return _cut(info)


def agent_of(result: bytes) -> str:
    """What people call an ACP agent, from its answer to `initialize`, cut; or empty."""
    try:
        info = _AGENT.decode(result).agent_info
    except msgspec.DecodeError:
        info = None
    return "" if info is None else (info.title or info.name)[:CLIENT_CHARS]


def _cut(info: _Info | None) -> tuple[str, str]:
    return ("", "") if info is None else (info.name[:CLIENT_CHARS], info.version[:CLIENT_CHARS])
