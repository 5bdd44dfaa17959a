"""What an engine is: history in, a stream of events out, one model response at a time.

The turn runner owns the loop: it samples, executes the tool calls that came out,
appends their outputs to the history and samples again until no call is left. An
engine keeps no state between samples, starts no process and writes nothing down.
Closing the iterator (`aclose`) or cancelling it must end the work behind it at once.
"""

from collections.abc import AsyncGenerator
from typing import Literal, Protocol

import msgspec


class TextPart(msgspec.Struct, frozen=True, tag="text"):
    """Text that the user wrote."""

    text: str


class ImagePart(msgspec.Struct, frozen=True, tag="image"):
    """An image: an https or data URL."""

    url: str


class UserMessage(msgspec.Struct, frozen=True, tag="userMessage"):
    """Input of the user, in order."""

    parts: tuple[TextPart | ImagePart, ...]


class AgentMessage(msgspec.Struct, frozen=True, tag="agentMessage"):
    """Something that an engine said."""

    text: str


class ToolCall(msgspec.Struct, frozen=True, tag="toolCall"):
    """The engine wants something done; both an event and, afterwards, history.

    Attributes:
        call_id: The engine's own, unique in its thread.
        name: `shell` or `apply_patch`; anything else is answered as unknown.
        arguments: JSON text. `shell`: `{"command": [argv…] | "line", "workdir"?: str,
            "timeout_ms"?: int, "justification"?: str, "escalated"?: bool}`.
            `apply_patch`: `{"patch": str}`.
    """

    call_id: str
    name: str
    arguments: str


class ToolOutput(msgspec.Struct, frozen=True, tag="toolOutput"):
    """What came of a call, as text for the model."""

    call_id: str
    output: str


class CompactedHistory(msgspec.Struct, frozen=True, tag="compacted"):
    """Stands for all history before it, after `thread/compact/start`."""

    summary: str


HistoryEntry = UserMessage | AgentMessage | ToolCall | ToolOutput | CompactedHistory


class Prompt(msgspec.Struct, frozen=True):
    """All that one sample needs.

    Attributes:
        history: Oldest first; the last entry is a user message or a tool output.
        model: Model name.
        effort: Reasoning effort, or None for the model's own default.
        instructions: System text, may be empty.
        cwd: Absolute path of the turn's working directory.
        output_schema: JSON Schema text for the final message, or None.
        traceparent: W3C trace context of the turn, or empty.
        tracestate: Its state, or empty.
        compact: Summarise the history instead of answering it.
    """

    history: tuple[HistoryEntry, ...]
    model: str
    effort: str | None = None
    instructions: str = ""
    cwd: str = "/"
    output_schema: str | None = None
    traceparent: str = ""
    tracestate: str = ""
    compact: bool = False


class MessageStarted(msgspec.Struct, frozen=True):
    """An agent message begins; deltas with its id follow."""

    item_id: str


class TextDelta(msgspec.Struct, frozen=True):
    """More text of a message."""

    item_id: str
    text: str


class MessageDone(msgspec.Struct, frozen=True):
    """The message is complete; `text` is all of it."""

    item_id: str
    text: str


class ReasoningStarted(msgspec.Struct, frozen=True):
    """A reasoning item begins."""

    item_id: str


class ReasoningDelta(msgspec.Struct, frozen=True):
    """More reasoning summary; part `index` starts with its first delta."""

    item_id: str
    index: int
    text: str


class ReasoningDone(msgspec.Struct, frozen=True):
    """The reasoning item is complete; one text per part."""

    item_id: str
    summary: tuple[str, ...]


class Usage(msgspec.Struct, frozen=True):
    """Tokens of this sample."""

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    reasoning_output_tokens: int = 0
    response_id: str = ""
    """The endpoint's, empty where it gives none."""


class Retrying(msgspec.Struct, frozen=True):
    """The sample failed and is tried again; clients see `error` with `willRetry`.

    A message or reasoning item that was open is cut: it gets no Done event, and what
    follows has new ids. Items that were done stay. No tool call came out before.

    Attributes:
        message: What went wrong, one line.
        info: As `EngineError.info`.
        http_status: The endpoint's answer, where there was one.
        attempt: Which of the repeats this is, from 1.
        attempts: How many there are at most.
    """

    message: str
    info: str
    http_status: int | None = None
    attempt: int = 1
    attempts: int = 1


Event = (
    MessageStarted
    | TextDelta
    | MessageDone
    | ReasoningStarted
    | ReasoningDelta
    | ReasoningDone
    | ToolCall
    | Usage
    | Retrying
)


class EngineError(Exception):
    """The sample failed for good; the turn ends as failed.

    Attributes:
        info: Name of the `codexErrorInfo`: `internalServerError`, `usageLimitExceeded`,
            `unauthorized`, `badRequest`, `contextWindowExceeded`, `other`, ….
        http_status: The endpoint's answer, where there was one.
        details: More of it, where the message is one that clients know.
    """

    def __init__(
        self,
        message: str,
        info: str = "other",
        http_status: int | None = None,
        details: str | None = None,
    ) -> None:
        super().__init__(message)
        self.info = info
        self.http_status = http_status
        self.details = details


# These names of `codexErrorInfo` are objects on the wire; all others plain strings.
_INFO_WITH_STATUS = frozenset(
    {
        "httpConnectionFailed",
        "responseStreamConnectionFailed",
        "responseStreamDisconnected",
        "responseTooManyFailedAttempts",
    }
)


def codex_error_info(
    info: str, http_status: int | None
) -> str | dict[str, dict[str, int | str | None]]:
    """`codexErrorInfo` as clients read it, of an `EngineError` or a `Retrying`."""
    if info in _INFO_WITH_STATUS:
        return {info: {"httpStatusCode": http_status}}
    return info


class Model(msgspec.Struct, frozen=True):
    """A model that an engine offers, as `model/list` shows it."""

    id: str
    display_name: str
    description: str
    efforts: tuple[str, ...] = ("medium",)
    default_effort: str = "medium"
    modalities: tuple[Literal["text", "image"], ...] = ("text",)
    context_window: int | None = None


class Engine(Protocol):
    """An engine: samples prompts."""

    @property
    def provider(self) -> str:
        """`modelProvider` on the wire, e.g. `offline`."""
        ...

    @property
    def models(self) -> tuple[Model, ...]:
        """What it offers, the default first."""
        ...

    def sample(self, prompt: Prompt) -> AsyncGenerator[Event, None]:
        """Stream one response.

        Raises:
            EngineError: when it failed for good.
        """
        ...

    async def close(self) -> None:
        """Release what it holds (connections)."""
        ...
