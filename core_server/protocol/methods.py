"""The method table: what a client may ask, with which params, and who may.

`core_server.handlers` serves each of them; a test holds the two together. What is
not in the table is answered -32601.
"""

import msgspec

from core_server.protocol import (
    account,
    execution,
    extras,
    hosts,
    pages,
    reviews,
    session,
    threads,
    turns,
)
from core_server.protocol.wire import Nothing, ThreadParams


class Method(msgspec.Struct, frozen=True):
    """A client request.

    Attributes:
        params: Type of its params; None for a unit (none, `null` or `{}`).
        result: Type of its result.
        new_work: Refused while we drain.
        experimental: Needs the `experimentalApi` capability.
        experimental_fields: Members of params that need it.
    """

    params: type[msgspec.Struct] | None
    result: type[msgspec.Struct]
    new_work: bool = False
    experimental: bool = False
    experimental_fields: frozenset[str] = frozenset()


_START = frozenset(
    "allowProviderModelFallback daybreakEnabled dynamicTools environments experimentalRawEvents"
    " historyMode mockExperimentalField multiAgentMode permissions projectId"
    " runtimeWorkspaceRoots selectedCapabilityRoots".split()
)
_RESUME = frozenset("history initialTurnsPage path permissions runtimeWorkspaceRoots".split())
_FORK = frozenset(
    "attachToSource beforeTurnId deferGoalContinuation experimentalDisablePredictionMcp"
    " experimentalPredictionMode path permissions runtimeWorkspaceRoots".split()
)
_LIST = frozenset(
    "ancestorThreadId attachedToThreadId includeAttachedThreads parentThreadId projectId".split()
)
_TURN = frozenset(
    "additionalContext collaborationMode cyberAccessProgram environments multiAgentMode"
    " permissions responsesapiClientMetadata responsesapiClientMetadataPatch"
    " runtimeWorkspaceRoots".split()
)
_STEER = frozenset(
    "additionalContext responsesapiClientMetadata responsesapiClientMetadataPatch".split()
)

METHODS: dict[str, Method] = {
    "initialize": Method(session.InitializeParams, session.InitializeResult),
    "thread/start": Method(
        threads.ThreadStartParams, threads.OpenedThread, new_work=True, experimental_fields=_START
    ),
    "thread/resume": Method(
        threads.ThreadResumeParams,
        threads.OpenedThread,
        new_work=True,
        experimental_fields=_RESUME,
    ),
    "thread/fork": Method(
        threads.ThreadForkParams, threads.OpenedThread, new_work=True, experimental_fields=_FORK
    ),
    "thread/list": Method(
        threads.ThreadListParams, threads.ThreadListResult, experimental_fields=_LIST
    ),
    "thread/loaded/list": Method(threads.LoadedListParams, threads.LoadedListResult),
    "thread/read": Method(threads.ThreadReadParams, threads.ThreadResult),
    "thread/archive": Method(ThreadParams, Nothing),
    "thread/unarchive": Method(ThreadParams, threads.ThreadResult),
    "thread/delete": Method(ThreadParams, Nothing),
    "thread/name/set": Method(threads.ThreadNameParams, Nothing),
    "thread/unsubscribe": Method(ThreadParams, threads.UnsubscribeResult),
    "thread/turns/list": Method(pages.TurnsListParams, pages.TurnsListResult),
    "thread/items/list": Method(pages.ItemsListParams, pages.ItemsListResult),
    "thread/compact/start": Method(ThreadParams, Nothing, new_work=True),
    "thread/shellCommand": Method(threads.ShellCommandParams, Nothing, new_work=True),
    "thread/goal/set": Method(threads.GoalSetParams, threads.GoalSetResult),
    "thread/goal/get": Method(ThreadParams, threads.GoalGetResult),
    "thread/goal/clear": Method(ThreadParams, threads.GoalClearResult),
    "turn/start": Method(
        turns.TurnStartParams, turns.TurnResult, new_work=True, experimental_fields=_TURN
    ),
    "turn/steer": Method(
        turns.TurnSteerParams, turns.TurnSteerResult, new_work=True, experimental_fields=_STEER
    ),
    "turn/interrupt": Method(turns.TurnInterruptParams, Nothing),
    "model/list": Method(account.ModelListParams, account.ModelListResult),
    "account/read": Method(account.AccountReadParams, account.AccountResult),
    "account/rateLimits/read": Method(None, Nothing),
    "account/login/start": Method(account.LoginParams, Nothing),
    "account/login/cancel": Method(account.LoginCancelParams, account.LoginCancelResult),
    "account/logout": Method(None, Nothing),
    "account/bedrock/checkGovCloudRequirements": Method(
        Nothing, extras.GovCloudResult, experimental=True
    ),
    "config/read": Method(account.ConfigReadParams, account.ConfigReadResult),
    "configRequirements/read": Method(None, account.RequirementsResult),
    "command/exec": Method(
        execution.ExecParams,
        execution.ExecResult,
        experimental_fields=frozenset({"permissionProfile"}),
    ),
    "command/exec/write": Method(execution.ExecWriteParams, Nothing),
    "command/exec/resize": Method(execution.ExecResizeParams, Nothing),
    "command/exec/terminate": Method(execution.ExecTerminateParams, Nothing),
    "hooks/list": Method(extras.CwdsParams, extras.DirectoriesResult),
    "skills/list": Method(extras.CwdsParams, extras.DirectoriesResult),
    "plugin/installed": Method(extras.CwdsParams, extras.InstalledResult),
    "app/list": Method(extras.EmptyListParams, extras.EmptyPage),
    "experimentalFeature/list": Method(extras.EmptyListParams, extras.EmptyPage),
    "mcpServerStatus/list": Method(extras.EmptyListParams, extras.EmptyPage),
    "collaborationMode/list": Method(Nothing, extras.ModesResult, experimental=True),
    "thread/readState/update": Method(
        extras.ReadStateParams, extras.ReadStateResult, experimental=True
    ),
    "review/start": Method(reviews.ReviewStartParams, reviews.ReviewStartResult, new_work=True),
    "thread/settings/update": Method(threads.SettingsUpdateParams, Nothing, experimental=True),
    "thread/inject_items": Method(extras.InjectParams, Nothing),
    "thread/backgroundTerminals/list": Method(
        extras.TerminalsParams, extras.EmptyPage, experimental=True
    ),
    "thread/backgroundTerminals/clean": Method(ThreadParams, Nothing, experimental=True),
    "thread/backgroundTerminals/terminate": Method(
        extras.TerminalParams, extras.TerminatedResult, experimental=True
    ),
    "thread/search": Method(threads.SearchParams, threads.SearchResult, experimental=True),
    "thread/search/stream": Method(threads.SearchParams, threads.SearchResult, experimental=True),
    "thread/search/cancel": Method(threads.SearchCancelParams, Nothing, experimental=True),
    "thread/search/stream/cancel": Method(threads.SearchCancelParams, Nothing, experimental=True),
    "permissionProfile/list": Method(extras.ListParams, extras.PermissionProfiles),
    "plugin/list": Method(extras.PluginListParams, extras.PluginListResult),
    "externalAgentConfig/detect": Method(Nothing, extras.DetectResult),
    "server/diagnostics": Method(Nothing, extras.DiagnosticsResult, experimental=True),
}

FLEET_METHODS: dict[str, Method] = {
    "host/list": Method(None, hosts.HostListResult),
    "host/drain": Method(None, Nothing),
}
"""Not the reference's; between a host and its core where hosts share a store."""
