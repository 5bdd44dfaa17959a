"""The base of every type on the wire: camelCase members, explicit nulls, immutable.

Params ignore members they do not know, as the reference does. Results and
notifications are written with all their members, null where there is nothing.
"""

from typing import Annotated, Any, Final, Literal

import msgspec

from core_server.config import ApprovalPolicy

PROTOCOL_VERSION = "0.171.0"
"""The app-server protocol that we speak. Clients read it as our version and gate on it
(the official one wants >= 0.151.0), so it is not the version of this package."""


_encode: Final = msgspec.json.Encoder().encode


def encode(value: object) -> bytes:
    """A value as JSON, for the wire or a row; every text can be carried.

    Halves of surrogate pairs, which UTF-8 cannot carry (RFC 3629 section 3), are joined
    where both are there, and are U+FFFD alone.
    """
    try:
        return _encode(value)
    except UnicodeEncodeError:
        return _encode(_encodable(msgspec.to_builtins(value, enc_hook=msgspec.json.decode)))


def _encodable(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        case dict():
            return {_encodable(name): _encodable(each) for name, each in value.items()}
        case list() | tuple():
            return [_encodable(each) for each in value]
        case _:
            return value


class Wire(msgspec.Struct, frozen=True, rename="camel"):
    """Base of all params, results and notification params."""


class Nothing(Wire, frozen=True):
    """An empty object: `{}`."""


class ThreadParams(Wire, frozen=True):
    """Params that name a thread and nothing else."""

    thread_id: str


I64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""An integer of the reference's. JSON has longer ones, which no clock and no column takes."""

U32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
"""A count, with the range that the reference has for it."""

SortDirection = Literal["asc", "desc"]
Reviewer = Literal["user", "auto_review", "guardian_subagent"]


class GranularFlags(msgspec.Struct, frozen=True):
    """What a granular policy lets ask for."""

    sandbox_approval: bool
    rules: bool
    mcp_elicitations: bool
    request_permissions: bool = False
    skill_approval: bool = False


class GranularPolicy(msgspec.Struct, frozen=True):
    """An approval policy by kind of question."""

    granular: GranularFlags


AskForApproval = ApprovalPolicy | GranularPolicy


class FullAccess(Wire, frozen=True, tag="dangerFullAccess"):
    """No sandbox."""


class ReadOnly(Wire, frozen=True, tag="readOnly"):
    """Read everything, write nothing."""

    network_access: bool = False


class WorkspaceWrite(Wire, frozen=True, tag="workspaceWrite"):
    """Write beneath the working directory and the listed roots."""

    writable_roots: tuple[str, ...] = ()
    network_access: bool = False
    exclude_tmpdir_env_var: bool = False
    exclude_slash_tmp: bool = False


class ExternalSandbox(Wire, frozen=True, tag="externalSandbox"):
    """The client says that it has confined us itself."""

    network_access: Literal["restricted", "enabled"] = "restricted"


SandboxPolicy = FullAccess | ReadOnly | WorkspaceWrite | ExternalSandbox


class CollaborationSettings(msgspec.Struct, frozen=True):
    """Settings of a collaboration mode (snake case on the wire)."""

    model: str
    reasoning_effort: str | None = None
    developer_instructions: str | None = None


ModeKind = Literal["plan", "code", "custom", "default", "execute", "pair_programming"]


class CollaborationMode(Wire, frozen=True):
    """How user and engine work together."""

    settings: CollaborationSettings
    mode: ModeKind = "default"
