"""What the reference server 0.169.0 keeps behind the `experimentalApi` capability.

Tables only, from its JSON schema generated with and without `--experimental`;
`gate` reads them. They name what is refused, so a method that they do not know
passes, and the core judges it.
"""

from typing import Final

METHODS: Final = frozenset(
    {
        "account/bedrock/checkGovCloudRequirements",
        "account/bedrock/discover",
        "account/bedrock/setup",
        "account/gcp/setup",
        "accountSession/list",
        "accountSession/switch",
        "collaborationMode/list",
        "environment/add",
        "environment/info",
        "environment/status",
        "fuzzyFileSearch/sessionStart",
        "fuzzyFileSearch/sessionStop",
        "fuzzyFileSearch/sessionUpdate",
        "mcpServer/event/stream/start",
        "mcpServer/event/stream/stop",
        "memory/reset",
        "memory/status",
        "mock/experimentalMethod",
        "plugin/search",
        "process/kill",
        "process/resizePty",
        "process/spawn",
        "process/writeStdin",
        "project/create",
        "project/delete",
        "project/import",
        "project/list",
        "project/move",
        "project/read",
        "project/update",
        "remoteControl/client/list",
        "remoteControl/client/revoke",
        "remoteControl/disable",
        "remoteControl/enable",
        "remoteControl/pairing/start",
        "remoteControl/pairing/status",
        "remoteControl/status/read",
        "rollout/compress",
        "server/diagnostics",
        "thread/backgroundTerminals/clean",
        "thread/backgroundTerminals/list",
        "thread/backgroundTerminals/terminate",
        "thread/decrement_elicitation",
        "thread/guardianReview",
        "thread/increment_elicitation",
        "thread/items/read",
        "thread/memory/read",
        "thread/memoryMode/set",
        "thread/prediction/request",
        "thread/prepareApprovedPlan",
        "thread/queue/add",
        "thread/queue/delete",
        "thread/queue/list",
        "thread/queue/reorder",
        "thread/queue/start",
        "thread/queue/update",
        "thread/readState/update",
        "thread/realtime/appendAudio",
        "thread/realtime/appendSpeech",
        "thread/realtime/appendText",
        "thread/realtime/listVoices",
        "thread/realtime/start",
        "thread/realtime/stop",
        "thread/sample",
        "thread/sample/cancel",
        "thread/search",
        "thread/searchOccurrences",
        "thread/settings/update",
        "thread/timeline/list",
        "turn/settings/update",
        "userVerification/cancel",
        "userVerification/delete",
        "userVerification/enroll",
        "userVerification/status",
        "userVerification/verify",
    }
)
"""Requests that only a client with the capability may send."""

PARAMS: Final[dict[str, tuple[str, ...]]] = {
    "command/exec": ("permissionProfile",),
    "thread/fork": (
        "experimentalPredictionMode",
        "beforeTurnId",
        "path",
        "runtimeWorkspaceRoots",
        "permissions",
        "deferGoalContinuation",
        "attachToSource",
        "experimentalDisablePredictionMcp",
    ),
    "thread/list": (
        "projectId",
        "parentThreadId",
        "ancestorThreadId",
        "attachedToThreadId",
        "includeAttachedThreads",
    ),
    "thread/metadata/update": (
        "projectId",
        "daybreakEnabled",
    ),
    "thread/resume": (
        "history",
        "path",
        "runtimeWorkspaceRoots",
        "permissions",
        "initialTurnsPage",
    ),
    "thread/start": (
        "allowProviderModelFallback",
        "runtimeWorkspaceRoots",
        "permissions",
        "multiAgentMode",
        "historyMode",
        "projectId",
        "daybreakEnabled",
        "environments",
        "dynamicTools",
        "selectedCapabilityRoots",
        "mockExperimentalField",
        "experimentalRawEvents",
    ),
    "turn/start": (
        "responsesapiClientMetadata",
        "additionalContext",
        "environments",
        "runtimeWorkspaceRoots",
        "permissions",
        "collaborationMode",
        "multiAgentMode",
        "cyberAccessProgram",
        "responsesapiClientMetadataPatch",
    ),
    "turn/steer": (
        "responsesapiClientMetadata",
        "additionalContext",
        "responsesapiClientMetadataPatch",
    ),
}
"""Fields of otherwise stable requests, in the order in which the reference looks for them.

`null` and `false` do not count as used, an empty list or object does.
"""

NOTIFICATIONS: Final = frozenset({"thread/readState/changed", "thread/settings/updated"})
"""Sent to subscribers with the capability only (observed, not in the schema)."""
