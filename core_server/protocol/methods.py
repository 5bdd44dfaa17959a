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

_EXPERIMENTAL_NOTHING = frozenset(
    "account/bedrock/discover accountSession/list mcpServer/event/stream/stop memory/status"
    " plugin/search project/list rollout/compress thread/memory/read thread/queue/delete"
    " thread/queue/list thread/realtime/list thread/realtime/stop userVerification/cancel"
    " userVerification/status".split()
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
    "thread/read": Method(threads.ThreadReadParams, threads.ThreadReadResult),
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
        threads.ReadStateParams, threads.ReadStateResult, experimental=True
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
    "thread/search/cancel": Method(threads.CancelParams, Nothing, experimental=True),
    "thread/search/stream/cancel": Method(threads.CancelParams, Nothing, experimental=True),
    "thread/searchOccurrences": Method(
        threads.OccurrencesParams, threads.OccurrencesResult, experimental=True
    ),
    "thread/items/read": Method(pages.ItemsReadParams, pages.ItemsReadResult, experimental=True),
    "thread/sample": Method(
        threads.SampleParams, threads.SampleResult, new_work=True, experimental=True
    ),
    "thread/sample/cancel": Method(threads.CancelParams, Nothing, experimental=True),
    "thread/prepareApprovedPlan": Method(
        threads.ApprovedPlanParams, threads.ApprovedPlanResult, experimental=True
    ),
    "modelProvider/list": Method(Nothing, extras.ProvidersResult),
    "account/gatewayOAuth/read": Method(Nothing, extras.GatewayOAuthResult),
    "app/read": Method(extras.AppIdsParams, extras.AppsReadResult),
    "remoteControl/status/read": Method(None, session.RemoteControlStatus, experimental=True),
    "permissionProfile/list": Method(extras.ListParams, extras.PermissionProfiles),
    "plugin/list": Method(extras.PluginListParams, extras.PluginListResult),
    "externalAgentConfig/detect": Method(Nothing, extras.DetectResult),
    "server/diagnostics": Method(Nothing, extras.DiagnosticsResult, experimental=True),
    **{
        name: Method(params, type(result), experimental=name in _EXPERIMENTAL_NOTHING)
        for name, params, result in extras.NOTHING
    },
}

SAYS_NOTHING: dict[str, str] = {
    "account/rateLimitResetCredit/consume": (
        "codex account authentication required for rate limit reset credits"
    ),
    "account/sendAddCreditsNudgeEmail": (
        "codex account authentication required to notify workspace owner"
    ),
    "account/usage/read": "codex account authentication required to read token usage",
    "account/workspaceMessages/read": (
        "codex account authentication required to read workspace messages"
    ),
    "accountSession/switch": "Workspace switching requires a managed ChatGPT login",
    "feedback/upload": "sending feedback is disabled by configuration",
    "plugin/share/checkout": "plugin sharing is not enabled",
    "plugin/share/delete": "plugin sharing is not enabled",
    "plugin/share/list": "plugin sharing is not enabled",
    "plugin/share/save": "plugin sharing is not enabled",
    "plugin/share/updateTargets": "plugin sharing is not enabled",
    "plugin/uninstall": "remote plugin uninstall is not enabled",
    "remoteControl/client/list": "remote control requires ChatGPT authentication",
    "remoteControl/client/revoke": "remote control requires ChatGPT authentication",
    "remoteControl/disable": "remote control requires ChatGPT authentication",
    "remoteControl/pairing/start": (
        "remote control pairing requires remote control to be enabled"
    ),
    "turn/settings/update": "turn settings updates require the step_model_switching feature",
    "userVerification/delete": "User verification is not available in this build or account.",
    "userVerification/enroll": "User verification is not available in this build or account.",
    "userVerification/verify": "User verification is not available in this build or account.",
}
"""Refused with -32600 in the reference's own words for who lacks what they need."""

_NO_ACCOUNT = "there are no accounts here, and no login"
_NO_CONFIG = "the configuration is the command line; clients cannot write it"
_NO_FILES = "files are reached by turns and command/exec alone, which ask and are confined"
_NO_PROCESS = "command/exec runs commands, in the sandbox"
_NO_PLUGINS = "there are no plugins, apps or marketplaces here"
_NO_MCP = "no MCP servers are started here"
_NO_ORDER = "threads have no projects, sections, attachments or queues here"
_NO_VOICE = "the engines neither listen nor speak"
_NO_GUARDIAN = "nobody but the user judges what a turn may do"

REFUSED: dict[str, str] = {
    "account/bedrock/setup": _NO_ACCOUNT,
    "account/gatewayOAuth/login": _NO_ACCOUNT,
    "account/gcp/setup": _NO_ACCOUNT,
    "config/batchWrite": _NO_CONFIG,
    "config/value/write": _NO_CONFIG,
    "experimentalFeature/enablement/set": _NO_CONFIG,
    "memory/reset": _NO_CONFIG,
    "modelProvider/config/write": _NO_CONFIG,
    "modelProvider/default/set": _NO_CONFIG,
    "skills/config/write": _NO_CONFIG,
    "skills/extraRoots/set": _NO_CONFIG,
    "thread/memoryMode/set": _NO_CONFIG,
    "environment/add": "all commands run on this machine",
    "environment/info": "all commands run on this machine",
    "environment/status": "all commands run on this machine",
    "externalAgentConfig/import": "nothing is taken over from other agents",
    "externalAgentConfig/import/recordHistory": "nothing is taken over from other agents",
    "feedback/save": "no logs or reports are kept that could be saved; stderr has the log",
    "fs/copy": _NO_FILES,
    "fs/createDirectory": _NO_FILES,
    "fs/getMetadata": _NO_FILES,
    "fs/readDirectory": _NO_FILES,
    "fs/readFile": _NO_FILES,
    "fs/remove": _NO_FILES,
    "fs/unwatch": _NO_FILES,
    "fs/watch": _NO_FILES,
    "fs/writeFile": _NO_FILES,
    "fuzzyFileSearch": _NO_FILES,
    "fuzzyFileSearch/sessionStart": _NO_FILES,
    "fuzzyFileSearch/sessionStop": _NO_FILES,
    "fuzzyFileSearch/sessionUpdate": _NO_FILES,
    "marketplace/add": _NO_PLUGINS,
    "marketplace/remove": _NO_PLUGINS,
    "plugin/install": _NO_PLUGINS,
    "plugin/read": _NO_PLUGINS,
    "plugin/skill/read": _NO_PLUGINS,
    "mcpServer/event/stream/start": _NO_MCP,
    "mcpServer/oauth/login": _NO_MCP,
    "mcpServer/resource/read": _NO_MCP,
    "mcpServer/tool/call": _NO_MCP,
    "mock/experimentalMethod": "it is for tests of the reference",
    "process/kill": _NO_PROCESS,
    "process/resizePty": _NO_PROCESS,
    "process/spawn": _NO_PROCESS,
    "process/writeStdin": _NO_PROCESS,
    "project/create": _NO_ORDER,
    "project/delete": _NO_ORDER,
    "project/import": _NO_ORDER,
    "project/move": _NO_ORDER,
    "project/read": _NO_ORDER,
    "project/update": _NO_ORDER,
    "thread/attachment/add": _NO_ORDER,
    "thread/attachment/remove": _NO_ORDER,
    "thread/queue/add": _NO_ORDER,
    "thread/queue/reorder": _NO_ORDER,
    "thread/queue/start": _NO_ORDER,
    "thread/queue/update": _NO_ORDER,
    "thread/section/move": _NO_ORDER,
    "threadSection/create": _NO_ORDER,
    "threadSection/delete": _NO_ORDER,
    "threadSection/update": _NO_ORDER,
    "remoteControl/enable": "nobody controls it from afar but through a proxy",
    "remoteControl/pairing/status": "nobody controls it from afar but through a proxy",
    "thread/approveGuardianDeniedAction": _NO_GUARDIAN,
    "thread/guardianReview": _NO_GUARDIAN,
    "thread/decrement_elicitation": "no clock runs that an elicitation could hold",
    "thread/increment_elicitation": "no clock runs that an elicitation could hold",
    "thread/metadata/update": "a thread keeps no facts about a repository",
    "thread/prediction/request": "it is not implemented in the reference either",
    "thread/realtime/appendAudio": _NO_VOICE,
    "thread/realtime/appendSpeech": _NO_VOICE,
    "thread/realtime/appendText": _NO_VOICE,
    "thread/realtime/listVoices": _NO_VOICE,
    "thread/realtime/start": _NO_VOICE,
    "thread/revert": "what was said stays; thread/fork begins a thread before any turn",
    "thread/timeline/list": "thread/turns/list and thread/items/list have the same",
    "windowsSandbox/setupStart": "this is not Windows",
}
"""The rest of the reference's methods: refused with -32601, and the reason in `data.detail`."""

FLEET_METHODS: dict[str, Method] = {
    "host/list": Method(None, hosts.HostListResult),
    "host/drain": Method(None, Nothing),
}
"""Not the reference's; between a host and its core where hosts share a store."""
