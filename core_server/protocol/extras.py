"""What the TUI asks of things that we do not have: the empty answer is the true one."""

from core_server.protocol.wire import Wire


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


class ModeMask(Wire, frozen=True, rename=None):
    """A collaboration mode (snake case on the wire)."""

    name: str
    mode: str
    model: None = None
    reasoning_effort: None = None


class ModesResult(Wire, frozen=True):
    """`collaborationMode/list`: the default one."""

    data: tuple[ModeMask, ...] = (ModeMask("Default", "default"),)


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
