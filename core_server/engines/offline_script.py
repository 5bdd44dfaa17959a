"""What the offline engine answers: a prompt in, events and pauses out.

Pure: the pauses are only named here, `offline` keeps them. The last user message
decides; once a tool call of it has an output, that output is answered.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from core_server.engines.base import (
    AgentMessage,
    EngineError,
    Event,
    HistoryEntry,
    ImagePart,
    MessageDone,
    MessageStarted,
    Prompt,
    ReasoningDelta,
    ReasoningDone,
    ReasoningStarted,
    TextDelta,
    TextPart,
    ToolCall,
    ToolOutput,
    UserMessage,
)
from core_server.engines.history import latest_request, since_compaction
from core_server.engines.offline_directives import (
    HELP,
    Directive,
    Fail,
    Run,
    Say,
    Slow,
    Think,
    Tokens,
    Write,
    read_directive,
)

# However long a text is, streaming it back takes no longer than this.
_MAX_ECHO_S = 30.0

# A word with the space behind it; 4,096 keeps one endless word in small deltas.
_WORDS = re.compile(r"\S{1,4096}\s{0,4096}|\s{1,4096}")

_SLOW_PERIOD_S = 0.2

# At full speed the loop gets its turn this often: a fraction of a millisecond apart.
_TOKENS_PER_PAUSE = 128

# What a final message quotes of an output, in characters: it is meant to be short.
_QUOTE_CHARS = 200


class Pause(msgspec.Struct, frozen=True):
    """Nothing for so long; 0 only lets others run."""

    seconds: float


Step = Event | Pause


class Script:
    """Writes answers.

    Args:
        new_id: Gives a new id for a prefix.
        word_delay_s: Pause between two words.
    """

    def __init__(self, new_id: Callable[[str], str], word_delay_s: float) -> None:
        self._new_id = new_id
        self._word_delay_s = word_delay_s

    def answer(self, prompt: Prompt) -> Iterator[Step]:
        """Yield the whole response but for its usage.

        Raises:
            EngineError: for `/fail`.
        """
        history = since_compaction(prompt.history)
        if prompt.compact:
            return self._say(_summary(history))
        message, done = latest_request(history)
        if done:
            return self._say(_report(*done[-1]))
        directive = _directive(message)
        if prompt.output_schema is not None and isinstance(directive, Say):
            return self._say(fitting(directive.text, prompt.output_schema))
        return self._perform(directive)

    def _perform(self, directive: Directive) -> Iterator[Step]:
        match directive:
            case Say(text):
                yield from self._say(text)
            case Think(text):
                yield from self._think(text)
            case Slow(seconds):
                yield from self._slow(seconds)
            case Tokens(count):
                yield from self._tokens(count)
            case Run(command):
                yield self._run(command)
            case Write(path, text):
                yield self._write(path, text)
            case Fail(message):
                raise EngineError(message)

    def _say(self, text: str) -> Iterator[Step]:
        item_id = self._new_id("msg")
        yield MessageStarted(item_id)
        for word in self._paced(text):
            yield word if isinstance(word, Pause) else TextDelta(item_id, word)
        yield MessageDone(item_id, text)

    def _think(self, text: str) -> Iterator[Step]:
        item_id = self._new_id("rs")
        summary = f"Thinking about: {text}"
        yield ReasoningStarted(item_id)
        for word in self._paced(summary):
            yield word if isinstance(word, Pause) else ReasoningDelta(item_id, 0, word)
        yield ReasoningDone(item_id, (summary,))
        yield from self._say(f"I have thought about: {text}")

    def _slow(self, seconds: float) -> Iterator[Step]:
        item_id = self._new_id("msg")
        said: list[str] = []
        left_s = seconds
        yield MessageStarted(item_id)
        while left_s > 1e-9:
            said.append(f"tick {len(said) + 1}\n")
            yield TextDelta(item_id, said[-1])
            yield Pause(min(_SLOW_PERIOD_S, left_s))
            # Counted down from the whole, so that rounding does not add a delta.
            left_s = seconds - len(said) * _SLOW_PERIOD_S
        yield MessageDone(item_id, "".join(said))

    def _tokens(self, count: int) -> Iterator[Step]:
        item_id = self._new_id("msg")
        yield MessageStarted(item_id)
        delta, pause = TextDelta(item_id, "tok "), Pause(0)  # the same objects every time
        for sent in range(count):
            if sent % _TOKENS_PER_PAUSE == 0:
                yield pause
            yield delta
        yield MessageDone(item_id, "tok " * count)

    def _run(self, command: str) -> ToolCall:
        arguments = {
            "command": command,
            "escalated": True,
            "justification": "You asked for it with /run.",
        }
        return self._call("shell", arguments)

    def _write(self, path: str, text: str) -> ToolCall:
        added = "".join(f"+{line}\n" for line in text.split("\n"))
        patch = f"*** Begin Patch\n*** Add File: {path}\n{added}*** End Patch\n"
        return self._call("apply_patch", {"patch": patch})

    def _call(self, name: str, arguments: dict[str, object]) -> ToolCall:
        return ToolCall(self._new_id("call"), name, msgspec.json.encode(arguments).decode())

    def _paced(self, text: str) -> Iterator[str | Pause]:
        words = _WORDS.findall(text)
        pause = Pause(min(self._word_delay_s, _MAX_ECHO_S / max(1, len(words))))
        for index, word in enumerate(words):
            if index:
                yield pause
            yield word


def count_words(entry: HistoryEntry) -> int:
    """Count the words of an entry: the offline engine's tokens."""
    # No `match`: a long thread has all of its entries counted for every sample.
    if isinstance(entry, AgentMessage):
        return len(entry.text.split())
    if isinstance(entry, UserMessage):
        count = 0
        for part in entry.parts:
            if isinstance(part, TextPart):
                count += len(part.text.split())
        return count
    if isinstance(entry, ToolCall):
        return len(entry.arguments.split())
    if isinstance(entry, ToolOutput):
        return len(entry.output.split())
    return len(entry.summary.split())


def _directive(message: UserMessage | None) -> Directive:
    parts = message.parts if message else ()
    text = _text(message) if message else ""
    images = sum(isinstance(part, ImagePart) for part in parts)
    seen = "" if not images else "I see 1 image." if images == 1 else f"I see {images} images."
    if not text.strip():
        return Say(seen or f"There was no text in your message.\n{HELP}")
    directive = read_directive(text)
    if seen and isinstance(directive, Say):
        return Say(f"{directive.text}\n{seen}")
    return directive


def _text(message: UserMessage) -> str:
    return "\n".join(part.text for part in message.parts if isinstance(part, TextPart))


def _report(call: ToolCall, output: ToolOutput) -> str:
    what = "the command" if call.name == "shell" else "the file change"
    text = " ".join(output.output.split())
    if len(text) > _QUOTE_CHARS:
        text = text[:_QUOTE_CHARS] + "…"
    return f"Result of {what}: {text}" if text else f"There was no output of {what}."


def _summary(history: tuple[HistoryEntry, ...]) -> str:
    said = sum(isinstance(entry, UserMessage | AgentMessage) for entry in history)
    asked = [_text(entry) for entry in history if isinstance(entry, UserMessage)]
    last = " ".join(asked[-1].split())[:_QUOTE_CHARS] if asked else ""
    return f"Summary. Messages so far: {said}. The user's last one: {last or '(none)'}"


MAX_DEPTH: Final = 32
"""Deeper schemas refer to themselves."""


def fitting(words: str, schema: str) -> str:
    """JSON text that fits the schema, with the words in its texts; the words if it cannot be.

    Clients ask for titles and recaps like this. The words go where there is room for text;
    everything else is the least that the schema takes.
    """
    try:
        return json.dumps(_value(words, json.loads(schema), 0), ensure_ascii=False)
    except (ValueError, RecursionError):
        return words


def _value(words: str, schema: Any, depth: int) -> Any:
    if depth > MAX_DEPTH or not isinstance(schema, dict):
        return words
    if "const" in schema:
        return schema["const"]
    for several in ("enum", "anyOf", "oneOf", "allOf"):
        if isinstance(choices := schema.get(several), list) and choices:
            first = choices[0]
            return first if several == "enum" else _value(words, first, depth + 1)
    kinds = schema.get("type")
    kind = kinds if isinstance(kinds, str) else "null" if "null" in (kinds or ()) else "string"
    return _of_kind(words, kind, schema, depth)


def _of_kind(words: str, kind: str, schema: dict[str, Any], depth: int) -> Any:
    match kind:
        case "object":
            fields = schema.get("properties")
            members = fields if isinstance(fields, dict) else {}
            return {name: _value(words, each, depth + 1) for name, each in members.items()}
        case "array":
            least = schema.get("minItems", 0)
            count = min(least, MAX_DEPTH) if isinstance(least, int) else 0
            return [_value(words, schema.get("items"), depth + 1)] * count
        case "string":
            most = schema.get("maxLength")
            return words[:most] if isinstance(most, int) and most >= 0 else words
        case _:
            least = schema.get("minimum", 0)
            return {"integer": least, "number": least, "boolean": False}.get(kind)
