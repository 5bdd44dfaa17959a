"""`thread/inject_items`: history for the engine alone, which no client is shown.

Items come as the Responses API has them. Kinds that we do not know are taken and dropped,
as the reference does; a message of the developer reaches the engine as a user's.
"""

import json
from typing import Any, Final

from core_server.context import Context, Reply
from core_server.engines.base import (
    AgentMessage,
    TextPart,
    ToolCall,
    ToolOutput,
    UserMessage,
)
from core_server.errors import invalid_request
from core_server.protocol.extras import InjectParams
from core_server.protocol.wire import Nothing
from core_server.session.thread import Injected, InjectedEntry

MAX_CHARACTERS: Final = 1024 * 1024
"""Of all that is injected into a thread: it stands in the thread's row."""


def inject(context: Context, params: InjectParams) -> Reply:
    """`thread/inject_items`."""
    thread = context.loaded(params.thread_id)
    thread.check_writable()
    if not params.items:
        raise invalid_request("items must not be empty")
    read = [_entry(number, json.loads(bytes(raw))) for number, raw in enumerate(params.items)]
    entries = [entry for entry in read if entry is not None]
    added = tuple(Injected(thread.next_item(), entry) for entry in entries)
    injected = thread.injected + added
    if sum(len(repr(each)) for each in injected) > MAX_CHARACTERS:
        raise invalid_request(f"items: a thread takes {MAX_CHARACTERS} characters of them")
    thread.injected = injected
    context.turns.inject(thread, entries)
    return Reply(Nothing(), context.write(thread))


def _entry(number: int, item: Any) -> InjectedEntry | None:
    """One item; None for a kind that we do not know."""
    if not isinstance(item, dict):
        raise _bad(number, f"invalid type: {json.dumps(item)[:64]}, expected struct WrappedItem")
    match item.get("type"):
        case None:
            raise _bad(number, "missing field `item`")
        case "message":
            return _message(number, item)
        case "function_call" | "custom_tool_call":
            arguments = item.get("arguments", item.get("input"))
            return ToolCall(
                _text(number, item, "call_id"), _text(number, item, "name"), str(arguments or "{}")
            )
        case "function_call_output" | "custom_tool_call_output":
            output = item.get("output")
            text = output if isinstance(output, str) else json.dumps(output)
            return ToolOutput(_text(number, item, "call_id"), text)
        case _:
            return None


def _message(number: int, item: dict[str, Any]) -> InjectedEntry:
    content = item.get("content")
    if content is None:
        raise _bad(number, "missing field `content`")
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    text = "\n".join(each for each in texts if isinstance(each, str))
    if item.get("role") == "assistant":
        return AgentMessage(text)
    return UserMessage((TextPart(text),))


def _text(number: int, item: dict[str, Any], name: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise _bad(number, f"missing field `{name}`")
    return value


def _bad(number: int, why: str) -> Exception:
    return invalid_request(f"items[{number}] is not a valid response item: {why}")
