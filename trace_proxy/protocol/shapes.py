"""What results and notifications of a core tell us: which thread lives, which turn runs.

Shared by the machines that watch a core; all other members stay undecoded.
"""

from typing import Annotated, Final

import msgspec

Name = Annotated[str, msgspec.Meta(min_length=1)]


class Named(msgspec.Struct):
    """An object of which only its id matters."""

    id: Name


class LoadedThread(msgspec.Struct, rename="camel"):
    """A thread, and what its agent is called; only a subagent is called anything."""

    id: Name
    agent_nickname: object = None
    agent_role: object = None

    @property
    def agent(self) -> str:
        """The agent's name, empty when it has none."""
        names = [each for each in (self.agent_nickname, self.agent_role) if isinstance(each, str)]
        return names[0] if names else ""


class ThreadResult(msgspec.Struct, rename="camel"):
    """Of `thread/start`, `thread/resume` and `thread/fork`."""

    thread: LoadedThread
    model: str = ""
    model_provider: object = None

    @property
    def provider(self) -> str:
        """Whose model it is, empty when that is not told."""
        return self.model_provider if isinstance(self.model_provider, str) else ""


class TurnResult(msgspec.Struct):
    """Of `turn/start` and `review/start`."""

    turn: Named


class ReviewResult(msgspec.Struct, rename="camel"):
    """Of `review/start`: the thread that the review runs in."""

    review_thread_id: Name


class Resolved(msgspec.Struct, rename="camel"):
    """Params of `serverRequest/resolved`."""

    request_id: int | str


class Status(msgspec.Struct):
    """Of a thread."""

    type: str = ""


class StatusChanged(msgspec.Struct):
    """Params of `thread/status/changed`."""

    status: Status


class Settings(msgspec.Struct):
    """Of a thread."""

    model: str


class SettingsUpdated(msgspec.Struct, rename="camel"):
    """Params of `thread/settings/updated`."""

    thread_settings: Settings


class ModelCalled(msgspec.Struct):
    """Params of `rawResponse/completed`.

    Attributes:
        unasked: A core of ours tells it because we watch; no client wants to hear it.
    """

    unasked: bool = False


class FirstVersion(msgspec.Struct, gc=False, rename="camel"):
    """Params of `execCommandApproval` and `applyPatchApproval`, whose ids have other names."""

    conversation_id: str | None = None
    call_id: str | None = None


FIRST_VERSION: Final = msgspec.json.Decoder(FirstVersion)
THREAD: Final = msgspec.json.Decoder(ThreadResult)
TURN: Final = msgspec.json.Decoder(TurnResult)
REVIEW: Final = msgspec.json.Decoder(ReviewResult)
RESOLVED: Final = msgspec.json.Decoder(Resolved)
STATUS_CHANGED: Final = msgspec.json.Decoder(StatusChanged)
SETTINGS_UPDATED: Final = msgspec.json.Decoder(SettingsUpdated)
MODEL_CALLED: Final = msgspec.json.Decoder(ModelCalled)


def status_of(params: bytes) -> str:
    """The status that `thread/status/changed` tells; empty where it tells none."""
    try:
        return STATUS_CHANGED.decode(params).status.type
    except msgspec.DecodeError:
        return ""
