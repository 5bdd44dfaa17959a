"""What the TUI asks of things that we do not have: the empty answer is the true one."""

import msgspec

from core_server.protocol.wire import U32, Wire


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


class ReadStateParams(Wire, frozen=True):
    """`thread/readState/update`."""

    thread_id: str
    expected_revision: str


class ReadState(Wire, frozen=True):
    """Nothing is unread."""

    revision: str
    first_unread: None = None


class ReadStateResult(Wire, frozen=True):
    """Answer of `thread/readState/update`."""

    read_state: ReadState


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
