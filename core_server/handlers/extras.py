"""Answers to what the TUI asks of features that this server does not have."""

import os
from pathlib import Path

from core_server.context import Context
from core_server.protocol.extras import (
    CwdsParams,
    DiagnosticsResult,
    DirectoriesResult,
    DirectoryEntry,
    EmptyListParams,
    EmptyPage,
    Gauge,
    GovCloudResult,
    InstalledResult,
    ModesResult,
    ProcessFacts,
    ReadState,
    ReadStateParams,
    ReadStateResult,
)
from core_server.protocol.wire import Nothing


def directories(context: Context, params: CwdsParams) -> DirectoriesResult:
    """`hooks/list`, `skills/list`: an entry without any for each directory."""
    cwds = params.cwds or (context.config.workspace,)
    return DirectoriesResult(tuple(DirectoryEntry(cwd) for cwd in cwds))


def installed(_: Context, __: CwdsParams) -> InstalledResult:
    """`plugin/installed`."""
    return InstalledResult()


def nothing_listed(_: Context, __: EmptyListParams) -> EmptyPage:
    """Lists that are empty here."""
    return EmptyPage()


def modes(_: Context, __: Nothing) -> ModesResult:
    """`collaborationMode/list`."""
    return ModesResult()


def read_state(_: Context, params: ReadStateParams) -> ReadStateResult:
    """`thread/readState/update`: we do not keep it; the client's revision stands."""
    return ReadStateResult(ReadState(params.expected_revision))


def gov_cloud(_: Context, __: Nothing) -> GovCloudResult:
    """`account/bedrock/checkGovCloudRequirements`."""
    return GovCloudResult()


def diagnostics(context: Context, _: Nothing) -> DiagnosticsResult:
    """`server/diagnostics`."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    active = sum(thread.turn is not None for thread in context.threads.values())
    return DiagnosticsResult(
        ProcessFacts(os.getpid(), pages * os.sysconf("SC_PAGE_SIZE")),
        (
            Gauge("core.threads.live", len(context.threads)),
            Gauge("core.turns.active", active),
        ),
    )
