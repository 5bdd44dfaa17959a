"""What the proxy knows about methods: which begin work, subscribe, choose handles.

Names of the `codex app-server` protocol up to 0.171; a method that is not listed here is
relayed like any other and shows as `_OTHER` in metrics and spans, so that a client
cannot invent unbounded names. What their params mean is the core's business.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from trace_proxy.protocol import experimental

KNOWN: Final = frozenset(
    """
    account/bedrock/checkGovCloudRequirements account/bedrock/discover account/bedrock/setup
    account/gatewayOAuth/cancel account/gatewayOAuth/login account/gatewayOAuth/read
    account/gcp/setup account/login/cancel account/login/start account/logout
    account/rateLimitResetCredit/consume account/rateLimits/read account/read
    account/securitySetup/read account/sendAddCreditsNudgeEmail account/usage/read
    account/workspaceMessages/read accountSession/list accountSession/switch app/installed
    app/list app/read collaborationMode/list command/exec command/exec/resize
    command/exec/terminate command/exec/write config/batchWrite config/mcpServer/reload
    config/read config/value/write configRequirements/read environment/add environment/info
    environment/status experimentalFeature/enablement/set experimentalFeature/list
    externalAgentConfig/detect externalAgentConfig/import
    externalAgentConfig/import/readHistories externalAgentConfig/import/recordHistory
    feedback/save feedback/upload fs/copy fs/createDirectory fs/getMetadata fs/readDirectory
    fs/readFile fs/remove fs/unwatch fs/watch fs/writeFile fuzzyFileSearch
    fuzzyFileSearch/sessionStart fuzzyFileSearch/sessionStop fuzzyFileSearch/sessionUpdate
    hooks/list initialize marketplace/add marketplace/remove marketplace/upgrade
    mcpServer/event/stream/start mcpServer/event/stream/stop mcpServer/oauth/login
    mcpServer/resource/read mcpServer/tool/call mcpServerStatus/list memory/reset memory/status
    mock/experimentalMethod model/list modelProvider/capabilities/read
    modelProvider/config/write modelProvider/default/set modelProvider/list
    permissionProfile/list plugin/install plugin/installed plugin/list plugin/read
    plugin/reconcile plugin/search plugin/share/checkout plugin/share/delete plugin/share/list
    plugin/share/save plugin/share/updateTargets plugin/skill/read plugin/uninstall process/kill
    process/resizePty process/spawn process/writeStdin project/create project/delete
    project/import project/list project/move project/read project/update
    remoteControl/client/list remoteControl/client/revoke remoteControl/disable
    remoteControl/enable remoteControl/pairing/start remoteControl/pairing/status
    remoteControl/status/read review/start rollout/compress server/diagnostics
    skills/config/write skills/extraRoots/set skills/list thread/approveGuardianDeniedAction
    thread/archive thread/attachment/add thread/attachment/list thread/attachment/remove
    thread/attachmentOwner/list thread/backgroundTerminals/clean thread/backgroundTerminals/list
    thread/backgroundTerminals/terminate thread/compact/start thread/decrement_elicitation
    thread/delete thread/fork thread/goal/clear thread/goal/get thread/goal/set
    thread/guardianReview thread/increment_elicitation thread/inject_items thread/items/list
    thread/items/read thread/list thread/loaded/list thread/memory/read thread/memoryMode/set
    thread/metadata/update thread/name/set thread/prediction/request thread/prepareApprovedPlan
    thread/queue/add thread/queue/delete thread/queue/list thread/queue/reorder
    thread/queue/start thread/queue/update thread/read thread/readState/update
    thread/realtime/appendAudio thread/realtime/appendSpeech thread/realtime/appendText
    thread/realtime/list thread/realtime/listVoices thread/realtime/start thread/realtime/stop
    thread/resume thread/revert thread/sample thread/sample/cancel thread/search
    thread/search/cancel thread/search/stream thread/search/stream/cancel
    thread/searchOccurrences thread/section/move thread/settings/update thread/shellCommand
    thread/start thread/timeline/list thread/turns/list thread/unarchive thread/unsubscribe
    threadSection/create threadSection/delete threadSection/list threadSection/update
    turn/interrupt turn/settings/update turn/start turn/steer userVerification/cancel
    userVerification/delete userVerification/enroll userVerification/status
    userVerification/verify windowsSandbox/readiness windowsSandbox/setupStart
    """.split()
)

ABOUT_THREADS: Final = frozenset(
    name for name in KNOWN if name.startswith(("thread/", "turn/", "review/"))
)
"""Their params may name a thread."""

NEW_WORK: Final = frozenset(
    """
    turn/start turn/steer thread/start thread/resume thread/fork thread/compact/start
    thread/queue/start thread/shellCommand review/start thread/realtime/start
    """.split()
)
"""Refused while draining: they begin a turn, or load a thread that could."""

SERVER_REQUESTS: Final = frozenset(
    """
    account/chatgptAuthTokens/refresh applyPatchApproval attestation/generate currentTime/read
    execCommandApproval item/commandExecution/requestApproval item/fileChange/requestApproval
    item/permissions/requestApproval item/tool/call item/tool/requestUserInput
    mcpServer/elicitation/request
    """.split()
)
"""What a core asks its clients."""

OF_PROGRAMS: Final = frozenset(
    "account/chatgptAuthTokens/refresh attestation/generate currentTime/read item/tool/call".split()
)
"""Those that a client answers by itself: nobody is asked, so no human is waited for."""

SUBSCRIBING: Final = frozenset({"thread/start", "thread/resume", "thread/fork"})
"""Their success makes the connection a subscriber of the thread in the result."""

TURN_STARTING: Final = frozenset(
    {"turn/start", "thread/compact/start", "thread/shellCommand", "review/start"}
)
"""A turn that begins without an own `turn/start` answer is a child of the latest of these."""

TURN_CONTROL: Final = frozenset({"turn/steer", "turn/interrupt", "thread/resume"})
"""Requests about a turn that runs: their spans link to it."""

EVERYBODY: Final = frozenset(
    """
    thread/started thread/status/changed thread/name/updated thread/archived
    thread/unarchived thread/deleted thread/goal/cleared thread/goal/updated
    """.split()
)
"""Thread notifications for every initialized connection, not for subscribers only."""

REPLAYED_TO_REQUESTER: Final = frozenset({"deprecationNotice"})
"""Sent while a history request is in flight, for that request's connection."""

HISTORY: Final = frozenset({"thread/read", "thread/resume", "thread/fork"})

UNLOADING: Final = frozenset({"thread/closed", "thread/deleted", "thread/archived"})
"""The thread they name is loaded nowhere any more."""

READS: Final = frozenset(
    """
    thread/list thread/loaded/list thread/read thread/turns/list thread/items/list
    thread/items/read thread/timeline/list thread/backgroundTerminals/list thread/goal/get
    account/read account/rateLimits/read config/read configRequirements/read hooks/list
    model/list collaborationMode/list permissionProfile/list plugin/installed plugin/list
    skills/list mcpServerStatus/list app/list project/list threadSection/list
    server/diagnostics
    """.split()
)
"""They only look, and clients repeat them: `--trace-reads off` leaves their spans out."""

MERGED: Final = frozenset({"thread/list", "thread/loaded/list", "thread/search"})
"""Answers that several cores hold parts of."""


CANCELS: Final = frozenset(
    """
    thread/sample/cancel thread/search/cancel thread/search/stream/cancel userVerification/cancel
    """.split()
)
"""Their `requestId` names another request of the same client, by the id that the client gave it."""

CANCEL_NOTES: Final = {"$/cancelRequest": "id", "notifications/cancelled": "requestId"}
"""The same as notifications, of LSP and MCP: which member names the request."""

TOLD_TO_ASKER: Final = frozenset({"thread/search/partial"})
"""Notifications whose `requestId` names a request: they are for who sent it, under his id."""


class HandleFamily(msgspec.Struct, frozen=True):
    """Methods that share a handle which the client chooses.

    Attributes:
        field: Name of the handle in params.
        opens: The request that chooses it.
        closes: The request that ends what it names, sent when its connection leaves.
        scoped_to_request: It lives only until `opens` is answered.
    """

    field: str
    opens: str
    closes: str
    scoped_to_request: bool = False


_EXEC = HandleFamily("processId", "command/exec", "command/exec/terminate", scoped_to_request=True)
_PROCESS = HandleFamily("processHandle", "process/spawn", "process/kill")
_WATCH = HandleFamily("watchId", "fs/watch", "fs/unwatch")
_SEARCH = HandleFamily("sessionId", "fuzzyFileSearch/sessionStart", "fuzzyFileSearch/sessionStop")

HANDLES: Final[dict[str, HandleFamily]] = {
    "command/exec": _EXEC,
    "command/exec/write": _EXEC,
    "command/exec/resize": _EXEC,
    "command/exec/terminate": _EXEC,
    "command/exec/outputDelta": _EXEC,
    "process/spawn": _PROCESS,
    "process/writeStdin": _PROCESS,
    "process/resizePty": _PROCESS,
    "process/kill": _PROCESS,
    "process/outputDelta": _PROCESS,
    "process/exited": _PROCESS,
    "fs/watch": _WATCH,
    "fs/unwatch": _WATCH,
    "fs/changed": _WATCH,
    "fuzzyFileSearch/sessionStart": _SEARCH,
    "fuzzyFileSearch/sessionUpdate": _SEARCH,
    "fuzzyFileSearch/sessionStop": _SEARCH,
    "fuzzyFileSearch/sessionUpdated": _SEARCH,
    "fuzzyFileSearch/sessionCompleted": _SEARCH,
}

OPENING: Final = frozenset(family.opens for family in HANDLES.values())

HANDLE_ENDS: Final = frozenset({"process/exited"})
"""Notifications after which their handle names nothing."""


class Traits(msgspec.Struct, frozen=True, gc=False):
    """All that is to be asked about a request's method, answered once.

    Attributes:
        name: The method, as sent.
        json: It in JSON.
        label: It where it is known, else `_OTHER`.
        span_name: Of the spans of its requests.
        new_work: In `NEW_WORK`.
        about_threads: In `ABOUT_THREADS`.
        about_turns: It begins a turn, or is about the one that runs.
        starts_turn: In `TURN_STARTING`.
        tells: Its answer tells more than its asker.
        merged: In `MERGED`.
        handles: Its family in `HANDLES`, if it has one.
        guarded: `initialize`, or something that `experimentalApi` opens.
        cancels: In `CANCELS`.
        overtakes: It frees others: it never waits behind the window.
        special: It is handled before it is sent: merged, handles, a cancel, `thread/unsubscribe`.
        attributes: What the spans of its requests say beside the usual.
    """

    name: str
    json: bytes
    label: str
    span_name: str
    new_work: bool
    about_threads: bool
    about_turns: bool
    starts_turn: bool
    tells: bool
    merged: bool
    handles: HandleFamily | None
    guarded: bool
    cancels: bool
    overtakes: bool
    special: bool
    attributes: Mapping[str, str] = {}


_TRAITS: dict[str, Traits] = {}

TRAITS_KEPT: Final = 1024
"""All real methods fit five times over; a client's inventions are looked at each time."""

MAX_KEPT_CHARS: Final = 128
"""Of a method's name; real ones are below 50."""

_ABOUT_TURNS: Final = TURN_STARTING | TURN_CONTROL
_TELLING: Final = SUBSCRIBING | TURN_CONTROL | {"turn/start", "review/start"}
_GUARDED: Final = experimental.METHODS | experimental.PARAMS.keys() | {"initialize"}


def traits(method: str) -> Traits:
    """What there is to know about a request's method."""
    known = _TRAITS.get(method)
    return _learn(method) if known is None else known


def _learn(method: str) -> Traits:
    handles, merged, cancels = HANDLES.get(method), method in MERGED, method in CANCELS
    learned = Traits(
        name=method,
        json=msgspec.json.encode(method),
        label=label(method),
        span_name=method if method in KNOWN else "jsonrpc",
        new_work=method in NEW_WORK,
        about_threads=method in ABOUT_THREADS,
        about_turns=method in _ABOUT_TURNS,
        starts_turn=method in TURN_STARTING,
        tells=method in _TELLING,
        merged=merged,
        handles=handles,
        guarded=method in _GUARDED,
        cancels=cancels,
        overtakes=method == "turn/interrupt",
        special=merged or cancels or handles is not None or method == "thread/unsubscribe",
    )
    if len(_TRAITS) < TRAITS_KEPT and len(method) < MAX_KEPT_CHARS:
        _TRAITS[method] = learned
    return learned


def foreign(
    method: str,
    *,
    known: bool,
    new_work: bool = False,
    watched: bool = False,
    target: str = "",
    attributes: Mapping[str, str] | None = None,
) -> Traits:
    """What there is to know about a method of another protocol than this one.

    Args:
        method: As sent.
        known: Whether that protocol has it.
        new_work: Whether it is refused while draining.
        watched: Whether its requests and answers tell more than that they are there.
        target: What stands behind it in the name of its spans.
        attributes: What these say beside the usual.
    """
    name = f"{method} {target}" if target else method
    return Traits(
        name=method,
        json=msgspec.json.encode(method),
        label=method if known else "_OTHER",
        span_name=name if known else "jsonrpc",
        new_work=new_work,
        about_threads=watched,
        about_turns=False,
        starts_turn=False,
        tells=False,
        merged=False,
        handles=None,
        guarded=False,
        cancels=False,
        overtakes=False,
        special=False,
        attributes=attributes or {},
    )


def label(method: str) -> str:
    """The method where it is known, else `_OTHER`: bounded names for metrics and spans."""
    return method if method in KNOWN else "_OTHER"


def server_label(method: str) -> str:
    """The same for what a core asks."""
    return method if method in SERVER_REQUESTS else "_OTHER"


for _method in KNOWN:  # before any client can name others
    _learn(_method)
