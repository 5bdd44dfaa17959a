"""What an endpoint says in an error, whatever its shape: JSON of many kinds, a page, text. Pure."""

import re
from html import unescape

from core_server.engines.endpoint.values import Json, decoded, encodable, member, string, whole

# Where the words stand, in the order of trust: OpenAI, FastAPI, problem details, OAuth, others.
_WORDS = ("message", "msg", "detail", "details", "error_description", "description")
_NESTED = ("error", "errors", "title", "reason", "cause")
_MAX_DEPTH = 6

# What stands in an event of either wire, and in no error.
_OF_EVENTS = frozenset({"choices", "response", "item", "delta", "part", "output", "usage"})

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]+")
_MAX_PAGE_CHARS = 300


class Said:
    """An error as an endpoint puts it.

    Attributes:
        words: For people; may be empty.
        code: `code` as text, or `type` where there is none; may be empty.
    """

    def __init__(self, words: str, code: str = "") -> None:
        self.words = words
        self.code = code


def said_in(value: object) -> Said:
    """Read an error value: a string, an object, a list of either, nested as they like."""
    return Said(_plain(_words(value, _MAX_DEPTH)), _code(value))


def misplaced_in(event: Json) -> Said | None:
    """An error that stands in a stream in a dress of its own, where no event has any error.

    Gateways and model servers put their answer of a failed request there as it is:
    `{"object": "error", "message"…}`, `{"detail"…}`, `{"errors": […]}`, `{"message", "code"}`.
    """
    if event.keys() & _OF_EVENTS:
        return None
    kind = string(event.get("type"))
    if kind.startswith("response.") and not kind.endswith("error"):
        return None
    marked = "error" in {string(event.get("object")), string(event.get("status"))}
    coded = isinstance(event.get("message"), str) and event.keys() & {"code", "status"}
    if marked or coded or kind.endswith("error") or event.keys() & {"detail", "errors", "error"}:
        said = said_in(event)
        return said if said.words else None
    return None


def said_in_body(body: bytes) -> Said:
    """Read the body of an error answer: JSON, a page or text."""
    try:
        value = decoded(body)
    except ValueError:
        text = body.decode("utf-8", "replace")
        return Said(page_words(text) if text.lstrip().startswith("<") else _plain(text))
    said = said_in(value)
    if not said.words and isinstance(value, dict | list) and value:
        return Said(_plain(body.decode("utf-8", "replace")), said.code)
    return said


def page_words(text: str) -> str:
    """Return the title and heading of a page, else the beginning of its text.

    In one pass each: a page is as long and as broken as its server likes.
    """
    for begin, end in (("<!--", "-->"), ("<script", "</script>"), ("<style", "</style>")):
        text = _without(text, begin, end)
    found = (_text(_inside(text, name)) for name in ("title", "h1"))
    words = ": ".join(dict.fromkeys(one for one in found if one))
    return words[:_MAX_PAGE_CHARS] or _text(text)[:_MAX_PAGE_CHARS]


def _lower(text: str) -> str:
    # A few letters are two in lower case; places must stay what they are.
    lower = text.lower()
    return lower if len(lower) == len(text) else text


def _inside(text: str, name: str) -> str:
    lower = _lower(text)
    begin = lower.find(">", lower.find(f"<{name}")) if f"<{name}" in lower else -1
    end = lower.find(f"</{name}", begin)
    return text[begin + 1 : end] if 0 <= begin < end else ""


def _without(text: str, begin: str, end: str) -> str:
    lower, kept, at = _lower(text), [], 0
    while (here := lower.find(begin, at)) >= 0:
        kept.append(text[at:here])
        there = lower.find(end, here)
        if there < 0:
            return "".join(kept)
        at = there + len(end)
    return "".join([*kept, text[at:]])


def _text(markup: str) -> str:
    first, *rest = markup.split("<")
    # What stands behind a tag's end; a tag without end hides the rest of its piece.
    texts = [first, *(piece.partition(">")[2] for piece in rest)]
    return " ".join(_plain(unescape(" ".join(texts))).split())


def _plain(text: str) -> str:
    return _CONTROL.sub(" ", encodable(text)).strip()


def _words(value: object, depth: int) -> str:
    if isinstance(value, str):
        return _inner(value, depth)
    if depth == 0:
        return ""
    if isinstance(value, list):
        return "; ".join(words for one in value[:10] if (words := _words(one, depth - 1)))
    if not isinstance(value, dict):
        return ""
    for name in (*_WORDS, *_NESTED):
        if words := _words(value.get(name), depth - 1):
            return words
    return ""


def _inner(text: str, depth: int) -> str:
    # Gateways put the answer of the endpoint behind them, JSON and all, into a string.
    if depth > 0 and text.lstrip().startswith("{"):
        try:
            return _words(decoded(text.encode("utf-8", "replace")), depth - 1) or text
        except ValueError:
            pass
    return text


def _code(value: object, depth: int = _MAX_DEPTH) -> str:
    if isinstance(value, list):
        return _code(value[0], depth - 1) if value and depth else ""
    inner = _code(member(value, "error"), depth - 1) if depth else ""
    if inner:
        return inner
    number = whole(member(value, "code"))
    if number is not None:
        return str(number)
    kind = string(member(value, "type"))
    return string(member(value, "code")) or ("" if kind == "error" else kind)
