"""What we tell clients unasked: each method and the type of its params.

A notification is sent by its type, so the method cannot be mistyped; two types carry
several methods and are sent with the name.
"""

import msgspec

from core_server.protocol import (
    account,
    approvals,
    execution,
    session,
    threads,
    turns,
)

NOTIFICATIONS: dict[str, type[msgspec.Struct]] = {
    "remoteControl/status/changed": session.RemoteControlStatus,
    "thread/started": threads.ThreadStarted,
    "thread/status/changed": threads.StatusChanged,
    "thread/archived": threads.ThreadIdNotification,
    "thread/unarchived": threads.ThreadIdNotification,
    "thread/deleted": threads.ThreadIdNotification,
    "thread/name/updated": threads.NameUpdated,
    "thread/goal/updated": threads.GoalUpdated,
    "thread/goal/cleared": threads.ThreadIdNotification,
    "thread/settings/updated": threads.SettingsUpdated,
    "thread/readState/changed": threads.ReadStateChanged,
    "warning": threads.Warning_,
    "rawResponse/completed": turns.RawResponseCompleted,
    "thread/tokenUsage/updated": turns.TokenUsageUpdated,
    "account/rateLimits/updated": account.RateLimitsUpdated,
    "turn/started": turns.TurnNotification,
    "turn/completed": turns.TurnNotification,
    "item/started": turns.ItemStarted,
    "item/completed": turns.ItemCompleted,
    "item/agentMessage/delta": turns.Delta,
    "item/plan/delta": turns.Delta,
    "item/commandExecution/outputDelta": turns.Delta,
    "item/reasoning/summaryPartAdded": turns.ReasoningPartAdded,
    "item/reasoning/summaryTextDelta": turns.ReasoningTextDelta,
    "turn/diff/updated": turns.DiffUpdated,
    "turn/plan/updated": turns.PlanUpdated,
    "thread/search/partial": threads.SearchPartial,
    "error": turns.ErrorNotification,
    "serverRequest/resolved": approvals.RequestResolved,
    "command/exec/outputDelta": execution.ExecOutput,
}

EXPERIMENTAL: frozenset[str] = frozenset({"thread/settings/updated", "rawResponse/completed"})
"""Sent to clients with the `experimentalApi` capability only."""

SERVER_REQUESTS: dict[str, tuple[type[msgspec.Struct], type[msgspec.Struct]]] = {
    "item/commandExecution/requestApproval": (
        approvals.CommandApprovalParams,
        approvals.CommandApproval,
    ),
    "item/fileChange/requestApproval": (approvals.FileApprovalParams, approvals.FileApproval),
}
"""What we ask of clients: params and answer."""
