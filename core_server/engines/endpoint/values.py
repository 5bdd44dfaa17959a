"""Reading JSON of any shape: what is asked for, or nothing. Pure; never raises on a value.

`decoded` takes what endpoints send and the standard forbids: a lone surrogate half,
invalid UTF-8, control characters, NaN.
"""

import json
import re

import msgspec

Json = dict[str, object]

# Escapes that stand for halves of a pair: only a decoder that keeps halves shows them.
_HALVES = re.compile("[\ud800-\udfff]")
_TRAILING_HALF = re.compile("[\ud800-\udbff]$")
_LENIENT = json.JSONDecoder(strict=False)

# A part within a message within a list: nothing that is text lies deeper.
_MAX_DEPTH = 4
_TEXT_MEMBERS = ("text", "refusal", "content", "output_text")

# What a double holds exactly, and every JSON reader with it.
_MAX_WHOLE = 2**53


def decoded(data: bytes) -> object:
    """Decode JSON text.

    Raises:
        ValueError: it is none, or too deep.
    """
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        pass
    try:
        text = data.decode("utf-8", "replace").strip()
        value, end = _LENIENT.raw_decode(text)
    except RecursionError:
        raise ValueError("JSON that is too deep") from None
    if end != len(text):
        raise ValueError("more than one JSON value")
    return value


def member(value: object, name: str) -> object:
    """Return a member of an object; None where it is missing or `value` is no object."""
    return value.get(name) if isinstance(value, dict) else None


def string(value: object) -> str:
    """Return a string that can be encoded; empty where it is none."""
    return encodable(value) if isinstance(value, str) else ""


def text_of(value: object, depth: int = _MAX_DEPTH) -> str | None:
    """Return the text that a value holds, itself or in parts; halves of pairs may remain.

    Null is no text (empty); None: nothing that could be text.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if depth == 0:
        return None
    if isinstance(value, list):
        texts = [text for part in value if (text := text_of(part, depth - 1)) is not None]
        return "".join(texts) if texts or not value else None
    if isinstance(value, dict):
        for name in _TEXT_MEMBERS:
            if value.get(name) is not None:
                return text_of(value[name], depth - 1)
    return None


def whole(value: object) -> int | None:
    """Return a count or index: an integer, also as `4.0` or `"4"`; None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 17:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= _MAX_WHOLE else None


def encodable(text: str) -> str:
    """Return the text with surrogate halves joined, and U+FFFD for those without another."""
    if text.isascii() or not _HALVES.search(text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def without_last_half(text: str) -> tuple[str, str]:
    """Split off the first half of a pair at the end of a piece of text, if there is one."""
    if text.isascii() or not _TRAILING_HALF.search(text):
        return text, ""
    return text[:-1], text[-1]


def object_text(value: object) -> str:
    """Return an object as JSON text, and text as it is; empty for anything else."""
    if isinstance(value, dict):
        return encodable(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
    return string(value)


def is_object(text: str) -> bool:
    """Whether a text is a JSON object."""
    try:
        return isinstance(decoded(text.encode("utf-8", "replace")), dict)
    except ValueError:
        return False
