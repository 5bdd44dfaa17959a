"""What the TUI asks of things that we do not have: the empty answer is the true one."""

import msgspec

from core_server.protocol.wire import U32, Nothing, Wire


class CwdsParams(Wire, frozen=True):
    """`hooks/list`, `skills/list`, `plugin/installed`."""

    cwds: tuple[str, ...] | None = None


class EmptyListParams(Wire, frozen=True):
    """Params of lists that are always empty here."""

    cursor: str | None = None


class DirectoryEntry(Wire, frozen=True):
    """What a directory has of hooks and skills: nothing."""

    cwd: str
    errors: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()
    skills: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class DirectoriesResult(Wire, frozen=True):
    """An entry for each directory that was asked for."""

    data: tuple[DirectoryEntry, ...]


class EmptyPage(Wire, frozen=True):
    """A list without members."""

    data: tuple[str, ...] = ()
    next_cursor: None = None


class InstalledResult(Wire, frozen=True):
    """No plugins."""

    marketplaces: tuple[str, ...] = ()
    marketplace_load_errors: tuple[str, ...] = ()


class PluginListParams(Wire, frozen=True):
    """`plugin/list`."""

    cwds: tuple[str, ...] | None = None
    marketplace_kinds: tuple[str, ...] | None = None


class PluginListResult(Wire, frozen=True):
    """No plugins, and none to be had."""

    marketplaces: tuple[str, ...] = ()
    marketplace_load_errors: tuple[str, ...] = ()
    featured_plugin_ids: tuple[str, ...] = ()


class DetectResult(Wire, frozen=True):
    """`externalAgentConfig/detect`: we take nothing over from other agents."""

    items: tuple[str, ...] = ()
    connectors: tuple[str, ...] = ()


class ListParams(Wire, frozen=True):
    """Params of short lists."""

    cursor: str | None = None
    limit: U32 | None = None


class PermissionProfile(Wire, frozen=True):
    """A set of permissions that a thread may be given."""

    id: str
    description: None = None
    allowed: bool = True


class PermissionProfiles(Wire, frozen=True):
    """`permissionProfile/list`: the three sandbox modes."""

    data: tuple[PermissionProfile, ...]
    next_cursor: str | None = None


class TerminalsParams(Wire, frozen=True):
    """`thread/backgroundTerminals/list`."""

    thread_id: str
    cursor: str | None = None
    limit: U32 | None = None


class TerminalParams(Wire, frozen=True):
    """`thread/backgroundTerminals/terminate`."""

    thread_id: str
    process_id: str


class TerminatedResult(Wire, frozen=True):
    """Whether there was one."""

    terminated: bool = False


class InjectParams(Wire, frozen=True):
    """`thread/inject_items`: items as the Responses API has them."""

    thread_id: str
    items: tuple[msgspec.Raw, ...]


class ModeMask(Wire, frozen=True, rename=None):
    """A collaboration mode (snake case on the wire)."""

    name: str
    mode: str
    model: None = None
    reasoning_effort: str | None = None


class ModesResult(Wire, frozen=True):
    """`collaborationMode/list`."""

    data: tuple[ModeMask, ...] = (
        ModeMask("Plan", "plan", reasoning_effort="medium"),
        ModeMask("Default", "default"),
    )


class GovCloudResult(Wire, frozen=True):
    """`account/bedrock/checkGovCloudRequirements`: there is no Bedrock here."""

    is_gov_cloud: bool = False
    should_warn: bool = False


class Gauge(Wire, frozen=True):
    """A number that changes."""

    name: str
    value: int


class ProcessFacts(Wire, frozen=True):
    """This process."""

    id: int
    resident_memory_bytes: int
    physical_footprint_bytes: None = None


class DiagnosticsResult(Wire, frozen=True):
    """`server/diagnostics`."""

    process: ProcessFacts
    gauges: tuple[Gauge, ...]


class NoAuth(Wire, frozen=True):
    """Nobody logs in here."""

    mode: str = "none"


class GatewaySettings(Wire, frozen=True, tag="customGateway"):
    """An endpoint that is none of the reference's own."""

    auth: NoAuth = NoAuth()


class Provider(Wire, frozen=True):
    """Where answers come from."""

    id: str
    name: str
    can_edit: bool = False
    base_url: None = None
    settings: GatewaySettings = GatewaySettings()


class ProvidersResult(Wire, frozen=True):
    """`modelProvider/list`: the engine; it is chosen by an option, not by clients."""

    data: tuple[Provider, ...]
    default_provider_id: str
    can_change_default: bool = False


class CapabilitiesResult(Wire, frozen=True):
    """`modelProvider/capabilities/read`: the engines use no such tools."""

    image_generation: bool = False
    web_search: bool = False


class GatewayOAuthResult(Wire, frozen=True):
    """`account/gatewayOAuth/read`: none is needed."""

    provider_id: str
    provider_name: str
    required: bool = False
    supports_device_auth: bool = False
    status: None = None
    error: None = None


class BedrockResult(Wire, frozen=True):
    """`account/bedrock/discover`: we look for none."""

    profiles: tuple[str, ...] = ()
    environment_credentials: tuple[str, ...] = ()


class NoticeResult(Wire, frozen=True):
    """`account/securitySetup/read`."""

    notice: None = None


class SessionsResult(Wire, frozen=True):
    """`accountSession/list`: nobody is logged in."""

    active_session_id: None = None
    sessions: tuple[str, ...] = ()


class AppsResult(Wire, frozen=True):
    """`app/installed`."""

    apps: tuple[str, ...] = ()


class AppIdsParams(Wire, frozen=True):
    """`app/read`."""

    app_ids: tuple[str, ...]


class AppsReadResult(Wire, frozen=True):
    """`app/read`: none of them is here."""

    missing_app_ids: tuple[str, ...]
    apps: tuple[str, ...] = ()


class HistoriesResult(Wire, frozen=True):
    """`externalAgentConfig/import/readHistories`."""

    data: tuple[str, ...] = ()
    connectors: tuple[str, ...] = ()


class UpgradeResult(Wire, frozen=True):
    """`marketplace/upgrade`."""

    selected_marketplaces: tuple[str, ...] = ()
    upgraded_roots: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


class ReconcileResult(Wire, frozen=True):
    """`plugin/reconcile`."""

    changed_plugins: tuple[str, ...] = ()
    failed_remote_plugin_ids: tuple[str, ...] = ()
    failed_materialization_remote_plugin_ids: tuple[str, ...] = ()


class MemoryResult(Wire, frozen=True):
    """`memory/status`: nothing is remembered across threads."""

    v2_consolidated_threads: int = msgspec.field(default=0, name="v2ConsolidatedThreads")
    v2_ready: bool = msgspec.field(default=False, name="v2Ready")


class SummaryResult(Wire, frozen=True):
    """`thread/memory/read`."""

    summary: None = None


class DeletedResult(Wire, frozen=True):
    """`thread/queue/delete`: there was none."""

    deleted: bool = False


class RealtimeResult(Wire, frozen=True):
    """`thread/realtime/list`: nobody spoke."""

    data: tuple[str, ...] = ()
    next_cursor: None = None
    snapshot_end: int = 0
    projected_through_item_index: int = 0
    coverage: str = "unsupported"


class VerificationResult(Wire, frozen=True):
    """`userVerification/status`: there is nobody who could verify."""

    credential_id: None = None
    unavailable_reason: str = "providerUnavailable"
    unavailable_message: str = "User verification is not available in this build or account."


class ReadinessResult(Wire, frozen=True):
    """`windowsSandbox/readiness`."""

    status: str = "notConfigured"


NOTHING: tuple[tuple[str, type[Wire] | None, Wire], ...] = (
    ("account/bedrock/discover", Nothing, BedrockResult()),
    ("account/gatewayOAuth/cancel", None, Nothing()),
    ("account/securitySetup/read", None, NoticeResult()),
    ("accountSession/list", Nothing, SessionsResult()),
    ("app/installed", Nothing, AppsResult()),
    ("config/mcpServer/reload", None, Nothing()),
    ("externalAgentConfig/import/readHistories", None, HistoriesResult()),
    ("marketplace/upgrade", Nothing, UpgradeResult()),
    ("mcpServer/event/stream/stop", Nothing, Nothing()),
    ("memory/status", Nothing, MemoryResult()),
    ("modelProvider/capabilities/read", Nothing, CapabilitiesResult()),
    ("plugin/reconcile", Nothing, ReconcileResult()),
    ("plugin/search", Nothing, EmptyPage()),
    ("project/list", Nothing, EmptyPage()),
    ("rollout/compress", None, Nothing()),
    ("thread/attachment/list", Nothing, EmptyPage()),
    ("thread/attachmentOwner/list", Nothing, EmptyPage()),
    ("thread/memory/read", Nothing, SummaryResult()),
    ("thread/queue/delete", Nothing, DeletedResult()),
    ("thread/queue/list", Nothing, EmptyPage()),
    ("thread/realtime/list", Nothing, RealtimeResult()),
    ("thread/realtime/stop", Nothing, Nothing()),
    ("threadSection/list", Nothing, EmptyPage()),
    ("userVerification/cancel", Nothing, Nothing()),
    ("userVerification/status", Nothing, VerificationResult()),
    ("windowsSandbox/readiness", None, ReadinessResult()),
)
"""Methods of things that we do not have, with the answer that the reference gives where it
has none of them either; whatever they are asked with."""
