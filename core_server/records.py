"""Threads, turns and items as rows of a store, and back. The JSON bodies are ours alone."""

from collections.abc import Callable

import msgspec

from core_server.engines.base import (
    AgentMessage,
    CompactedHistory,
    HistoryEntry,
    ImagePart,
    TextPart,
    ToolCall,
    ToolOutput,
    UserMessage,
)
from core_server.protocol.items import (
    AgentMessageItem,
    CommandItem,
    FileChangeItem,
    ImageInput,
    InputItem,
    LocalImageInput,
    PlanItem,
    TextInput,
    ThreadItem,
    ToolMessageItem,
    UserInput,
    UserMessageItem,
)
from core_server.protocol.threads import Goal, ReadState
from core_server.protocol.turns import ItemsView, TokenUsage, Turn, TurnError
from core_server.protocol.wire import Wire, encode
from core_server.session.thread import Facts, Injected, Settings, ThreadMachine
from core_server.storage.base import ItemRow, ThreadRow, TurnRow

HiddenEntry = ToolCall | ToolOutput | CompactedHistory
"""What only engines see."""


class _ThreadBody(Wire, frozen=True):
    settings: Settings
    originator: str
    forked_from_id: str | None
    goal: Goal | None
    usage: TokenUsage | None
    usage_turn_id: str
    injected: tuple[Injected, ...] = ()
    read_state: ReadState | None = None


class _TurnBody(Wire, frozen=True):
    started_at: int | None
    completed_at: int | None
    duration_ms: int | None
    error: TurnError | None


_thread_body = msgspec.json.Decoder(_ThreadBody).decode
_turn_body = msgspec.json.Decoder(_TurnBody).decode
_item_body: Callable[[str], ThreadItem] = msgspec.json.Decoder(ThreadItem).decode
_hidden_body = msgspec.json.Decoder(HiddenEntry).decode


def thread_row(thread: ThreadMachine) -> ThreadRow:
    """A thread as it is now."""
    facts = thread.facts
    body = _ThreadBody(
        thread.settings,
        facts.originator,
        facts.forked_from_id,
        thread.goal,
        thread.usage,
        thread.usage_turn_id,
        thread.injected,
        thread.read_state,
    )
    return ThreadRow(
        facts.id,
        facts.created_at_s,
        thread.updated_at_s,
        thread.recency_at_s,
        thread.preview,
        thread.name,
        thread.archived,
        thread.listed,
        facts.model_provider,
        thread.settings.cwd,
        facts.source,
        encode(body).decode(),
    )


def thread_of(row: ThreadRow) -> ThreadMachine:
    """A thread as it was stored; nobody subscribes to it yet."""
    body = _thread_body(row.body)
    facts = Facts(
        row.thread_id,
        row.created_at_s,
        row.model_provider,
        body.originator,
        row.source,
        forked_from_id=body.forked_from_id,
    )
    thread = ThreadMachine(facts, body.settings)
    thread.updated_at_s, thread.recency_at_s = row.updated_at_s, row.recency_at_s
    thread.preview, thread.name = row.preview, row.name
    thread.archived, thread.listed = row.archived, row.listed
    thread.injected, thread.read_state = body.injected, body.read_state
    thread.goal, thread.usage, thread.usage_turn_id = body.goal, body.usage, body.usage_turn_id
    thread.subscribed = False
    return thread


def turn_row(thread_id: str, ordinal: int, turn: Turn) -> TurnRow:
    """A turn as it is now."""
    body = _TurnBody(turn.started_at, turn.completed_at, turn.duration_ms, turn.error)
    return TurnRow(turn.id, thread_id, ordinal, turn.status, encode(body).decode())


def turn_of(row: TurnRow, items: tuple[ThreadItem, ...], view: ItemsView) -> Turn:
    """A stored turn."""
    body = _turn_body(row.body)
    return Turn(
        row.turn_id,
        row.turn_id,
        _viewed(items, view),
        view,
        row.status,
        body.error,
        body.started_at,
        body.completed_at,
        body.duration_ms,
    )


def _viewed(items: tuple[ThreadItem, ...], view: str) -> tuple[ThreadItem, ...]:
    """A summary is what was asked first and what was answered last."""
    if view != "summary":
        return items if view == "full" else ()
    asked = [item for item in items if isinstance(item, UserMessageItem)][:1]
    said = [item for item in items if isinstance(item, AgentMessageItem)][-1:]
    return (*asked, *said)


def item_row(thread_id: str, turn_id: str, ordinal: int, item: ThreadItem) -> ItemRow:
    """An item that clients see."""
    return ItemRow(item.id, turn_id, thread_id, ordinal, "item", encode(item).decode())


def hidden_row(thread_id: str, turn_id: str, ordinal: int, entry: HiddenEntry) -> ItemRow:
    """An entry that only engines see."""
    body = encode(entry).decode()
    return ItemRow(f"history:{ordinal}", turn_id, thread_id, ordinal, "history", body)


def item_of(row: ItemRow, *, running: bool) -> ThreadItem:
    """A stored item; one that was never finished, in a turn that ended, shows as failed."""
    item = _item_body(row.body)
    unfinished = isinstance(item, CommandItem | FileChangeItem) and item.status == "inProgress"
    if unfinished and not running:
        return msgspec.structs.replace(item, status="failed")
    return item


def history_of(
    rows: tuple[ItemRow, ...], injected: tuple[Injected, ...] = ()
) -> list[HistoryEntry]:
    """What an engine is told of a thread, oldest first, with what was injected in its place.

    A call without an output, left by a turn that was cut, is left out: engines refuse it.
    """
    history: list[HistoryEntry] = []
    waiting = list(injected)
    for row in rows:
        while waiting and waiting[0].ordinal < row.ordinal:
            history.append(waiting.pop(0).entry)
        if row.kind == "history":
            history.append(_hidden_body(row.body))
        else:
            item = _item_body(row.body)
            if isinstance(item, UserMessageItem | ToolMessageItem):
                history.append(message_of(item))
            elif isinstance(item, AgentMessageItem) and item.text:
                history.append(AgentMessage(item.text))
            elif isinstance(item, PlanItem):
                history.append(AgentMessage(plan_as_said(item.text)))
            elif isinstance(item, CommandItem) and item.source == "userShell":
                history.append(user_shell(item.command, item.aggregated_output or ""))
    return closed([*history, *(each.entry for each in waiting)])


def plan_as_said(text: str) -> str:
    """A plan as the engine had said it, between its tags."""
    return f"<proposed_plan>\n{text}</proposed_plan>\n"


def user_shell(command: str, output: str) -> UserMessage:
    """A command of the user's own, as engines are told of it."""
    return UserMessage((TextPart(f"I ran a command myself: {command}\n{output}"),))


def closed(history: list[HistoryEntry]) -> list[HistoryEntry]:
    """The history with each call's output right behind it, and no call without one."""
    kinds = set(map(type, history))
    if ToolCall not in kinds and ToolOutput not in kinds:  # asked for every sample
        return history
    outputs = {entry.call_id: entry for entry in history if isinstance(entry, ToolOutput)}
    ordered: list[HistoryEntry] = []
    for entry in history:
        if isinstance(entry, ToolCall):
            if entry.call_id in outputs:
                ordered += [entry, outputs[entry.call_id]]
        elif not isinstance(entry, ToolOutput):
            ordered.append(entry)
    return ordered


def message_of(item: InputItem) -> UserMessage:
    """Input as engines take it; what a tool delivered is marked as not the user's."""
    if isinstance(item, UserMessageItem):
        return UserMessage(tuple(_part(entry) for entry in item.content))
    text = item.output if isinstance(item.output, str) else encode(item.output).decode()
    return UserMessage((TextPart(f"Message of the tool {item.name}, not of the user:\n{text}"),))


def _part(entry: UserInput) -> TextPart | ImagePart:
    match entry:
        case TextInput(text=text):
            return TextPart(text)
        case ImageInput(url=url):
            return ImagePart(url)
        case LocalImageInput(path=path):
            return TextPart(f"[image: {path}]")
        case _:
            return TextPart(f"[{entry.name}: {entry.path}]")


def local_images(item: InputItem) -> tuple[str, ...]:
    """Paths of images that no engine is shown: it is told their names, see `message_of`."""
    content = item.content if isinstance(item, UserMessageItem) else ()
    return tuple(part.path for part in content if isinstance(part, LocalImageInput))


def preview_of(item: InputItem) -> str:
    """The first text of an input."""
    if isinstance(item, ToolMessageItem):
        return f"[{item.name}]"
    return next((part.text for part in item.content if isinstance(part, TextInput)), "")
