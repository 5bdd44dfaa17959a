"""Answers to what the TUI asks of features that this server does not have."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from core_server.context import Context
from core_server.errors import invalid_request
from core_server.handlers.initialize import remote_control_status
from core_server.protocol.extras import (
    AppIdsParams,
    AppsReadResult,
    CwdsParams,
    DetectResult,
    DiagnosticsResult,
    DirectoriesResult,
    DirectoryEntry,
    EmptyListParams,
    EmptyPage,
    GatewayOAuthResult,
    Gauge,
    GovCloudResult,
    InstalledResult,
    ListParams,
    ModesResult,
    PermissionProfile,
    PermissionProfiles,
    PluginListParams,
    PluginListResult,
    ProcessFacts,
    Provider,
    ProvidersResult,
    TerminalParams,
    TerminalsParams,
    TerminatedResult,
)
from core_server.protocol.session import RemoteControlStatus
from core_server.protocol.threads import ApprovedPlanParams, ApprovedPlanResult
from core_server.protocol.wire import Nothing, ThreadParams, Wire


def always(result: Wire) -> Callable[[Context, object], Wire]:
    """Answer whatever is asked with the same."""
    return lambda _context, _params: result


def providers(context: Context, _: Nothing) -> ProvidersResult:
    """`modelProvider/list`."""
    name = context.engine.provider
    return ProvidersResult((Provider(name, name),), name)


def gateway_login(context: Context, _: Nothing) -> GatewayOAuthResult:
    """`account/gatewayOAuth/read`."""
    name = context.engine.provider
    return GatewayOAuthResult(name, name)


def apps(_: Context, params: AppIdsParams) -> AppsReadResult:
    """`app/read`."""
    return AppsReadResult(params.app_ids)


def remote_control(_: Context, __: None) -> RemoteControlStatus:
    """`remoteControl/status/read`."""
    return remote_control_status()


def approved_plan(context: Context, params: ApprovedPlanParams) -> ApprovedPlanResult:
    """`thread/prepareApprovedPlan`: the plan is in the thread's history already."""
    context.loaded(params.thread_id)
    if not params.markdown.strip():
        raise invalid_request("The approved plan is empty.")
    return ApprovedPlanResult()


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


def plugins(_: Context, params: PluginListParams) -> PluginListResult:
    """`plugin/list`: what is shared within an account needs one."""
    if set(params.marketplace_kinds or ()) & {"workspace-directory", "shared-with-me"}:
        raise invalid_request(
            "list remote plugin catalog: chatgpt authentication required for remote plugin catalog"
        )
    return PluginListResult()


def detected(_: Context, __: Nothing) -> DetectResult:
    """`externalAgentConfig/detect`."""
    return DetectResult()


def profiles(_: Context, params: ListParams) -> PermissionProfiles:
    """`permissionProfile/list`: the cursor is the number of the first one of the page."""
    names = (":read-only", ":workspace", ":danger-full-access")
    cursor = params.cursor or "0"
    if not re.fullmatch("[0-9]", cursor) or int(cursor) > len(names):
        raise invalid_request(f"invalid cursor: {cursor[:64]}")
    start = int(cursor)
    end = len(names) if params.limit is None else start + max(1, params.limit)
    page = tuple(PermissionProfile(name) for name in names[start:end])
    return PermissionProfiles(page, str(end) if end < len(names) else None)


def terminals(context: Context, params: TerminalsParams) -> EmptyPage:
    """`thread/backgroundTerminals/list`: no command of ours outlives its turn."""
    context.loaded(params.thread_id)
    return EmptyPage()


def clean_terminals(context: Context, params: ThreadParams) -> Nothing:
    """`thread/backgroundTerminals/clean`."""
    context.loaded(params.thread_id)
    return Nothing()


def terminate_terminal(context: Context, params: TerminalParams) -> TerminatedResult:
    """`thread/backgroundTerminals/terminate`."""
    context.loaded(params.thread_id)
    return TerminatedResult()


def modes(_: Context, __: Nothing) -> ModesResult:
    """`collaborationMode/list`."""
    return ModesResult()


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
