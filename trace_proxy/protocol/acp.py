"""The Agent Client Protocol as a proxy sees it: names, and the members that it reads.

https://agentclientprotocol.com/protocol/overview, schema 1.19. A prompt is one request,
answered when the agent is done; until then `session/update` tells what it does, among it
`tool_call` and `tool_call_update`. What a prompt, a text or a tool's title says is
nobody's business here: a title may be a whole command line.
"""

from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

METHODS: Final = frozenset(
    """
    initialize authenticate logout providers/list providers/set providers/disable session/new
    session/load session/list session/delete session/fork session/resume session/close
    session/set_mode session/set_model session/set_config_option session/prompt mcp/message
    nes/start nes/suggest nes/accept nes/reject nes/close
    """.split()
)
"""What a client asks."""

SERVER_REQUESTS: Final = frozenset(
    """
    session/request_permission fs/read_text_file fs/write_text_file terminal/create
    terminal/output terminal/release terminal/wait_for_exit terminal/kill mcp/connect
    mcp/message mcp/disconnect elicitation/create
    """.split()
)
"""What an agent asks."""

NEW_WORK: Final = frozenset({"session/prompt", "session/new", "session/load", "session/fork"})
"""Refused while draining: a prompt runs for minutes, and a session is there for prompts."""

OPENING: Final = frozenset({"session/new", "session/load", "session/resume", "session/fork"})
"""Their answers tell of a session."""

OF_PEOPLE: Final = frozenset({"session/request_permission", "elicitation/create"})
"""What an agent asks a person; the rest is answered by programs."""

PROMPT: Final = "session/prompt"
CANCEL: Final = "session/cancel"
UPDATE: Final = "session/update"
PERMISSION: Final = "session/request_permission"

TOOL_KINDS: Final = frozenset(
    "read edit delete move search execute think fetch switch_mode".split()
)
"""Of a tool call; all others are `other`, which is a kind of the protocol too."""

STOP_REASONS: Final = frozenset("end_turn max_tokens max_turn_requests refusal cancelled".split())

OPTION_KINDS: Final = frozenset("allow_once allow_always reject_once reject_always".split())
"""What a permission may be answered with, beside `cancelled`."""


class Session(msgspec.Struct, rename="camel"):
    """Of params: whose session a message belongs to."""

    session_id: str | UnsetType = UNSET


class ToolCall(msgspec.Struct, rename="camel"):
    """Of a permission request: the tool call it is about."""

    tool_call_id: str = ""


class Option(msgspec.Struct, rename="camel"):
    """An answer that a permission request offers."""

    option_id: str = ""
    kind: str = ""


class Permission(msgspec.Struct, rename="camel"):
    """Params of `session/request_permission`."""

    session_id: str = ""
    tool_call: ToolCall = msgspec.field(default_factory=ToolCall)
    options: list[Option] = []


class _Outcome(msgspec.Struct, rename="camel"):
    outcome: str = ""
    option_id: str | None = None


class _Permitted(msgspec.Struct):
    outcome: _Outcome


class Text(msgspec.Struct):
    """A content block; only text has one."""

    text: str | UnsetType = UNSET


class Change(msgspec.Struct, rename="camel"):
    """What a `session/update` tells.

    Attributes:
        session_update: Its kind: `agent_message_chunk`, `tool_call`, `tool_call_update`, ….
        tool_call_id: Of the two about tools.
        kind: A tool's, one of `TOOL_KINDS`.
        status: `pending`, `in_progress`, `completed`, `failed`.
        content: One block of a message, or a list of a tool's results: raw.
    """

    session_update: str = ""
    tool_call_id: str = ""
    kind: str | None = None
    status: str | None = None
    content: Raw | UnsetType = UNSET


class Update(msgspec.Struct, rename="camel"):
    """Params of `session/update`."""

    session_id: str
    update: Change


class _Models(msgspec.Struct, rename="camel"):
    current_model_id: str = ""


class _Opened(msgspec.Struct, rename="camel"):
    session_id: str = ""
    models: _Models | None = None


class Opened(msgspec.Struct, frozen=True):
    """What is read of the answer to a request in `OPENING`."""

    session_id: str
    model: str


class _Block(msgspec.Struct):
    text: str = ""


class _Prompt(msgspec.Struct):
    prompt: list[_Block] = []


class _Tool(msgspec.Struct, rename="camel"):
    raw_input: Raw | UnsetType = UNSET
    title: Raw | UnsetType = UNSET
    raw_output: Raw | UnsetType = UNSET
    content: Raw | UnsetType = UNSET


class _ToolUpdate(msgspec.Struct):
    update: _Tool


class Usage(msgspec.Struct, rename="camel"):
    """Tokens of one prompt (unstable in the protocol)."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_read_tokens: int | None = None
    thought_tokens: int | None = None


class Prompted(msgspec.Struct, rename="camel"):
    """Result of `session/prompt`."""

    stop_reason: str = ""
    usage: Usage | None = None


class _Stopped(msgspec.Struct, rename="camel"):
    """The same, where usage has a shape that we do not know."""

    stop_reason: str = ""


_OPENED = msgspec.json.Decoder(_Opened)
_PROMPT = msgspec.json.Decoder(_Prompt)
_TOOL_UPDATE = msgspec.json.Decoder(_ToolUpdate)
_SESSION = msgspec.json.Decoder(Session)
_PERMISSION = msgspec.json.Decoder(Permission)
_PERMITTED = msgspec.json.Decoder(_Permitted)
_UPDATE = msgspec.json.Decoder(Update)
_PROMPTED = msgspec.json.Decoder(Prompted)
_STOPPED = msgspec.json.Decoder(_Stopped)
_TEXT = msgspec.json.Decoder(Text)


def session_of(params: bytes | None) -> str | None:
    """The session that params name, None where they name none."""
    try:
        named = Session() if params is None else _SESSION.decode(params)
    except msgspec.DecodeError:
        return None
    return named.session_id if isinstance(named.session_id, str) else None


def opened(result: bytes) -> Opened:
    """Which session was opened, and with which model; empty where that is not told."""
    try:
        told = _OPENED.decode(result)
    except msgspec.DecodeError:
        return Opened("", "")
    return Opened(told.session_id, "" if told.models is None else told.models.current_model_id)


def prompt_text(params: bytes) -> str:
    """The texts of a prompt: content, for whom may record it."""
    try:
        return "\n".join([block.text for block in _PROMPT.decode(params).prompt if block.text])
    except msgspec.DecodeError:
        return ""


def told_of(params: bytes) -> tuple[bytes, bytes]:
    """What a tool does and what came of it, JSON as it was told: content as well."""
    try:
        tool = _TOOL_UPDATE.decode(params).update
    except msgspec.DecodeError:
        return b"", b""
    done = tool.title if tool.raw_input is UNSET else tool.raw_input
    result = tool.content if tool.raw_output is UNSET else tool.raw_output
    return b"" if done is UNSET else bytes(done), b"" if result is UNSET else bytes(result)


def update_of(params: bytes) -> Update | None:
    """Params of `session/update`, None where they are none."""
    try:
        return _UPDATE.decode(params)
    except msgspec.DecodeError:
        return None


def text_of(change: Change) -> str:
    """The text of a message chunk, empty where it is of another kind."""
    try:
        block = Text() if change.content is UNSET else _TEXT.decode(change.content)
    except msgspec.DecodeError:
        return ""
    return block.text if isinstance(block.text, str) else ""


def prompted(result: bytes) -> Prompted:
    """Result of `session/prompt`, as much of it as can be understood."""
    try:
        return _PROMPTED.decode(result)
    except msgspec.DecodeError:
        pass
    try:
        return Prompted(_STOPPED.decode(result).stop_reason)
    except msgspec.DecodeError:
        return Prompted()


def permission_of(params: bytes) -> Permission:
    """Params of `session/request_permission`, empty where they are none."""
    try:
        return _PERMISSION.decode(params)
    except msgspec.DecodeError:
        return Permission()


def outcome_of(params: bytes, result: bytes | None) -> str:
    """How a permission request was answered: an option's kind, `cancelled`, `other`, `error`.

    The answer names an option by an id that the agent chose; only its kind is a word.
    """
    if result is None:
        return "error"
    try:
        outcome = _PERMITTED.decode(result).outcome
    except msgspec.DecodeError:
        return "other"
    if outcome.outcome != "selected":
        return "cancelled" if outcome.outcome == "cancelled" else "other"
    chosen = [
        each.kind for each in permission_of(params).options if each.option_id == outcome.option_id
    ]
    return chosen[0] if chosen and chosen[0] in OPTION_KINDS else "other"


def tool_kind(kind: str | None) -> str:
    """A tool's kind in bounded words."""
    return kind if kind in TOOL_KINDS else "other"


def cancel(session: str) -> bytes:
    """The notification that ends a prompt; the agent then answers with `cancelled`."""
    params = msgspec.json.encode({"sessionId": session})
    return b'{"jsonrpc":"2.0","method":"session/cancel","params":%b}' % params
