"""An answer that fits a JSON Schema, for a client that asked for one; deterministic.

Clients ask for titles and recaps like this. The words go where there is room for text;
everything else is the least that the schema takes.
"""

import json
from typing import Any, Final

MAX_DEPTH: Final = 32
"""Deeper schemas refer to themselves."""


def fitting(words: str, schema: str) -> str:
    """JSON text that fits the schema, with the words in its texts; the words if it cannot be."""
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
