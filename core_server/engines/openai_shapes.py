"""The shapes of the Responses API's events, as far as we read them.

Lenient where endpoints differ: what may be missing or null has a default, members that
are not named here are passed over. What remains must have its type.
"""

import msgspec

# Which item of the response an event is about: its index; endpoints that send none get
# along with its id, or one item at a time.
Key = int | str
PartKey = tuple[str, int]


class Part(msgspec.Struct):
    """A piece of text of an item."""

    type: str = ""
    text: str | None = None
    refusal: str | None = None


class Item(msgspec.Struct):
    """An output item: message, reasoning, function_call."""

    type: str = ""
    id: str | None = None
    content: list[Part] | None = None
    summary: list[Part] | None = None
    call_id: str | None = None
    name: str = ""
    arguments: str | None = None


class ErrorShape(msgspec.Struct):
    """What went wrong; also the `error` event itself."""

    code: str | int | None = None
    message: str | None = None


class Incomplete(msgspec.Struct):
    """Why it stopped early."""

    reason: str | None = None


class InputDetails(msgspec.Struct):
    """Of the input tokens."""

    cached_tokens: int | None = None


class OutputDetails(msgspec.Struct):
    """Of the output tokens."""

    reasoning_tokens: int | None = None


class UsageShape(msgspec.Struct):
    """Token counts."""

    input_tokens: int = 0
    output_tokens: int = 0
    input_tokens_details: InputDetails | None = None
    output_tokens_details: OutputDetails | None = None


class Response(msgspec.Struct):
    """The response object of its last event."""

    error: ErrorShape | None = None
    incomplete_details: Incomplete | None = None
    output: list[Item] | None = None
    usage: UsageShape | None = None


class DeltaEvent(msgspec.Struct):
    """More text of an item."""

    delta: str
    item_id: str | None = None
    output_index: int | None = None
    summary_index: int | None = None
    content_index: int | None = None

    @property
    def key(self) -> Key:
        """Return which item it is about."""
        return item_key(self.output_index, self.item_id)

    @property
    def part(self) -> PartKey:
        """Return which part of a reasoning item it is about."""
        # Open models send their reasoning itself (`content`), others a summary of it.
        if self.summary_index is None:
            return ("content", self.content_index or 0)
        return ("summary", self.summary_index)


class ItemEvent(msgspec.Struct):
    """An item was added or is done."""

    item: Item
    output_index: int | None = None

    @property
    def key(self) -> Key:
        """Return which item it is about."""
        return item_key(self.output_index, self.item.id)


class ResponseEvent(msgspec.Struct):
    """The response ended."""

    response: Response


def item_key(index: int | None, item_id: str | None) -> Key:
    """Return the key of an item by what its endpoint sends."""
    return index if index is not None else item_id or ""
