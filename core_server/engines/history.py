"""Reading a prompt's history: what still counts, and what is asked now. Pure."""

from core_server.engines.base import (
    CompactedHistory,
    HistoryEntry,
    ToolCall,
    ToolOutput,
    UserMessage,
)


def since_compaction(history: tuple[HistoryEntry, ...]) -> tuple[HistoryEntry, ...]:
    """Return the part from the last compaction on; that one stands for all before it."""
    for index in range(len(history) - 1, -1, -1):
        if type(history[index]) is CompactedHistory:
            return history[index:]
    return history


def latest_request(
    history: tuple[HistoryEntry, ...],
) -> tuple[UserMessage | None, tuple[tuple[ToolCall, ToolOutput], ...]]:
    """Return the latest user message and the calls made since, with their outputs.

    A steer may arrive while a command runs, so that its output follows the new message:
    such an output belongs to the older request and is left out.
    """
    calls: dict[str, ToolCall] = {}
    done: list[tuple[ToolCall, ToolOutput]] = []
    begin = len(history) - 1
    while begin > 0 and not isinstance(history[begin], UserMessage):
        begin -= 1
    message: UserMessage | None = None
    for entry in history[max(0, begin) :]:
        if isinstance(entry, UserMessage):
            message = entry
        elif isinstance(entry, ToolCall):
            calls[entry.call_id] = entry
        elif isinstance(entry, ToolOutput) and entry.call_id in calls:
            done.append((calls[entry.call_id], entry))
    return message, tuple(done)
