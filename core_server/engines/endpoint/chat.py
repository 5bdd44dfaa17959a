"""A Chat Completions stream as engine events: the reader machine.

    STREAMING --finish_reason--> ending --[DONE] or the stream's end--> completed
        |------- error, finish_reason length | content_filter | error --> failure is set

Pure, and as lenient as `responses`; but here a thing is said once: a piece that cannot be
read is lost, so it fails the response. Usage comes behind the finish reason, in a chunk
without choices, if it comes. Calls are held back until the response is complete.
"""

from collections.abc import Callable

from core_server.engines.base import Event
from core_server.engines.endpoint.failures import (
    Failure,
    disconnected,
    incomplete,
    reported,
    unreadable,
)
from core_server.engines.endpoint.items import Asked, Spoken, tool_calls
from core_server.engines.endpoint.responses import MAX_RESPONSE_CHARS, usage_of
from core_server.engines.endpoint.values import (
    Json,
    is_object,
    member,
    object_text,
    string,
    text_of,
    whole,
)
from core_server.engines.endpoint.words import Said, misplaced_in, said_in

# DeepSeek and most others; vLLM and OpenRouter of late; a few.
_REASONING = ("reasoning_content", "reasoning", "thinking")

# Finish reasons that leave the answer unfinished, in the words of the Responses API.
_CUT = {
    **dict.fromkeys(("length", "max_tokens", "model_length"), "max_output_tokens"),
    **dict.fromkeys(
        ("content_filter", "safety", "recitation", "blocklist", "prohibited_content", "spii"),
        "content_filter",
    ),
}

# Those that say that calls are to be made.
_CALLING = frozenset({"tool_calls", "function_call", "tool_use"})


class ChatReader:
    """Reads one response.

    Args:
        new_id: Gives a new id for a prefix.
        taken_call_ids: Call ids that the thread has already used.

    Attributes:
        completed: The response is complete; nothing follows.
        failure: Why it ended, when it did not complete.
        ending: All of the answer is there; only usage may follow.
    """

    def __init__(self, new_id: Callable[[str], str], taken_call_ids: frozenset[str]) -> None:
        self._new_id = new_id
        self._taken = taken_call_ids
        self._message: Spoken | None = None
        self._reasoning: Spoken | None = None
        self._calls: list[tuple[int | None, Asked]] = []
        self._reason = ""
        self._index: int | None = None
        self._usage: list[Event] = []
        self._chars = 0
        self._junk = ""
        self.ending = False
        self.completed = False
        self.failure: Failure | None = None

    def __repr__(self) -> str:
        state = "completed" if self.completed else "failed" if self.failure else "streaming"
        return f"<ChatReader {state} reason={self._reason!r} calls={len(self._calls)}>"

    def feed(self, event: object, name: str = "") -> list[Event]:
        """Take the next chunk; what is none is passed over.

        Args:
            event: Decoded JSON.
            name: The name of its frame: `error` says what it is.
        """
        assert not self.completed, "the response is over"
        assert self.failure is None, "the response is over"
        if not isinstance(event, dict):
            return []
        if event.get("error") or (name == "error" and "choices" not in event):
            self.failure = reported(said_in(event), again=False)
            return []
        if string(event.get("type")).startswith("response.") and "choices" not in event:
            self.failure = _is_responses()
            return []
        if (said := misplaced_in(event)) is not None:
            self.failure = reported(said, again=False)
            return []
        choice = self._ours(_first(event.get("choices")))
        if choice.get("error"):
            self.failure = reported(said_in(choice["error"]))
            return []
        counts = event.get("usage") or choice.get("usage")
        self._usage = usage_of(counts, event.get("id")) or self._usage
        delta = choice.get("delta")
        if not isinstance(delta, dict) and choice.get("message") is not None:
            delta = choice["message"]
        if delta is None and isinstance(choice.get("text"), str):  # as Completions had it
            delta = {"content": choice["text"]}
        events = self._delta(delta) if isinstance(delta, dict) else []
        if delta is not None and not isinstance(delta, dict):
            self.junk("a delta that is no object")
        if self.failure is None and (reason := string(choice.get("finish_reason"))):
            self._reason, self.ending = reason, True
        return events

    def _ours(self, choice: Json) -> Json:
        """The choice, unless it is another one than before: one was asked for."""
        index = whole(choice.get("index"))
        if index is not None and self._index is None:
            self._index = index
        if index in {None, self._index}:
            return choice
        self.junk("a second choice")
        return {}

    def junk(self, text: str) -> None:
        """A frame or a piece came that cannot be read."""
        self._junk = self._junk or text

    def marker(self) -> list[Event]:
        """`[DONE]` came."""
        if not (self.ending or self._has_something()):
            return self.end()
        return self._complete()

    def whole(self, body: Json) -> list[Event]:
        """Take a response that came whole, without a stream."""
        if "choices" in body or body.get("error"):
            events = self.feed(body)
            return events if self.failure is not None else [*events, *self._complete()]
        if "output" in body:
            self.failure = _is_responses()
        else:
            self.failure = unreadable("JSON that is no chat completion")
        return []

    def end(self) -> list[Event]:
        """The stream closed."""
        if self.ending:
            return self._complete()
        reason = "stream closed before its finish_reason"
        self.failure = disconnected(f"{reason}: {self._junk}" if self._junk else reason)
        return []

    def _has_something(self) -> bool:
        return bool(self._calls) or any(
            spoken is not None and spoken.spoke for spoken in (self._message, self._reasoning)
        )

    def _delta(self, delta: Json) -> list[Event]:
        events: list[Event] = []
        thoughts, content = _without_thoughts(delta.get("content"))
        named = (text_of(delta.get(name)) for name in _REASONING)
        thought = next((text for text in named if text), "") or thoughts
        if thought and self._fits(thought):
            if self._reasoning is None:
                self._reasoning = Spoken(self._new_id("rs"), reasoning=True)
            events += self._reasoning.add(("content", 0), thought)
        text = text_of(content)
        if text is None:
            self.junk("content that is no text")
        text = text or text_of(delta.get("refusal"))
        if text and self._fits(text):
            events += self._end_reasoning()
            if self._message is None:
                self._message = Spoken(self._new_id("msg"), reasoning=False)
            events += self._message.add(("text", 0), text)
        calls = delta.get("tool_calls")
        if calls is not None and not isinstance(calls, list):
            calls = [calls]
        for call in calls or []:
            self._call(call)
        if isinstance(old := delta.get("function_call"), dict):
            self._call({"function": old})
        return events

    def _end_reasoning(self) -> list[Event]:
        """Reasoning that goes on behind text would be another item."""
        reasoning, self._reasoning = self._reasoning, None
        return [] if reasoning is None else reasoning.finish({})

    def _call(self, call: object) -> None:
        function = member(call, "function")
        if not isinstance(call, dict) or not isinstance(function, dict):
            if call is not None:
                self.junk("a tool call that is no object")
            return
        name = string(function.get("name")) or string(call.get("name"))
        call_id = string(call.get("id"))
        arguments = function.get("arguments")
        text = arguments if isinstance(arguments, str) else object_text(arguments)
        if arguments is not None and not isinstance(arguments, str | dict):
            self.junk("arguments that are no text")
        if not self._fits(text):
            return
        asked = self._which(whole(call.get("index")), call_id, name)
        asked.named(name, asked.call_id or call_id)
        if isinstance(arguments, dict) and asked.said() not in {"", text}:
            self.junk("arguments in pieces that are no text")
        # Some send a call whole, and some of these twice; others "{}" and then the call.
        if not is_object(said := asked.said()) or said.strip() == "{}":
            asked.piece(text)
        elif text.strip() and not is_object(text):
            self.junk("arguments that go on behind their end")

    def _which(self, index: int | None, call_id: str, name: str) -> Asked:
        """The call that a piece is about: by id, by index, else the last one."""
        for _, asked in self._calls:
            if call_id and asked.call_id == call_id:
                return asked
        there = [asked for at, asked in self._calls if index is None or at == index or at is None]
        # An id and a name again: some give all calls one index.
        another = name and call_id
        if (
            there
            and not (another and there[-1].call_id)
            and not (index is None and name and there[-1].name and not call_id)
        ):
            return there[-1]
        asked = Asked()
        self._calls.append((index, asked))
        return asked

    def _complete(self) -> list[Event]:
        if self._reason == "error":
            self.failure = reported(Said(""))
            return []
        if self._junk:
            self.failure = unreadable(self._junk)
            return []
        events = self._end_reasoning()
        if self._message is not None:
            events += self._message.finish({})
        if (cut := _CUT.get(self._reason.casefold())) is not None:
            self.failure = incomplete(cut)
            return [*events, *self._usage]
        calls = self._held()
        if self.failure is not None:
            return events
        self.completed = True
        return [*events, *calls, *self._usage]

    def _held(self) -> list[Event]:
        asked = [one for _, one in self._calls]
        if self._reason in _CALLING and not asked and self._message is None:
            self.failure = unreadable(f"its finish_reason is {self._reason}, and there is no call")
        if not all(one.name for one in asked):
            self.failure = unreadable("a tool call without a name")
        return tool_calls(asked, self._taken, self._new_id)

    def _fits(self, text: str) -> bool:
        self._chars += len(text)
        if self._chars > MAX_RESPONSE_CHARS:
            self.failure = Failure(f"the response is longer than {MAX_RESPONSE_CHARS} characters")
        return self.failure is None


def _is_responses() -> Failure:
    return Failure(
        "the endpoint answers as the Responses API, not in Chat Completions: use --wire responses"
    )


def _first(choices: object) -> Json:
    """The one choice that was asked for."""
    if isinstance(choices, list):
        return next((one for one in choices if isinstance(one, dict)), {})
    return choices if isinstance(choices, dict) else {}


def _without_thoughts(content: object) -> tuple[str, object]:
    """What parts of a content are the model's thoughts, and the content without them."""
    if not isinstance(content, list):
        return "", content
    thoughts = [part for part in content if isinstance(part, dict) and "thinking" in part]
    text = "".join(text_of(part["thinking"]) or "" for part in thoughts)
    rest = [part for part in content if not any(part is one for one in thoughts)]
    return text, rest
