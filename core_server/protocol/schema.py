"""`core-server schema`: JSON Schema of every message that we take or send.

ClientRequest.json       what a client may ask, by method
ClientResults.json       what it is answered: `properties` by method
ServerNotification.json  what it is told
ServerRequest.json       what it is asked
ServerRequestAnswers.json  what it may answer: `properties` by method
Error.json               an error answer
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from core_server.protocol.methods import METHODS
from core_server.protocol.notifications import NOTIFICATIONS, SERVER_REQUESTS

Schema = dict[str, Any]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_ID: Schema = {"type": ["string", "integer"]}
_TEXT: Schema = {"type": "string"}


def documents() -> dict[str, Schema]:
    """All documents by file name."""
    results = {name: method.result for name, method in METHODS.items()}
    answers = {name: answer for name, (_, answer) in SERVER_REQUESTS.items()}
    asked = {name: params for name, (params, _) in SERVER_REQUESTS.items()}
    sent = {"emittedAtMs": {"type": "integer"}}
    return {
        "ClientRequest.json": _requests(),
        "ClientResults.json": _by_method(results),
        "ServerNotification.json": _messages(NOTIFICATIONS, sent),
        "ServerRequest.json": _messages(asked, {"id": {"type": "integer"}}),
        "ServerRequestAnswers.json": _by_method(answers),
        "Error.json": _error(),
    }


def write_schema(out: Path) -> None:
    """Write all documents into a directory, which is made if it is missing.

    Raises:
        OSError: it cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name, document in documents().items():
        text = msgspec.json.format(msgspec.json.encode(document), indent=2)
        (out / name).write_bytes(text + b"\n")


def _requests() -> Schema:
    typed = {name: method.params for name, method in METHODS.items() if method.params}
    refs, definitions = _components(typed.values())
    units = {name for name, method in METHODS.items() if method.params is None}
    kinds = [_message(name, refs[kind], {"id": _ID}) for name, kind in typed.items()]
    for name in sorted(units):
        empty: Schema = {"type": ["object", "null"], "maxProperties": 0}
        unit = _message(name, empty, {"id": _ID})
        unit["required"].remove("params")
        kinds.append(unit)
    return {"$schema": _DIALECT, "oneOf": kinds, "$defs": definitions}


def _messages(kinds: dict[str, type[msgspec.Struct]], more: Schema) -> Schema:
    refs, definitions = _components(kinds.values())
    found = [_message(name, refs[kind], more) for name, kind in kinds.items()]
    return {"$schema": _DIALECT, "oneOf": found, "$defs": definitions}


def _message(method: str, params: Schema, more: Schema) -> Schema:
    return {
        "title": method,
        "type": "object",
        "required": ["method", "params", *more],
        "properties": {"method": {"const": method}, "params": params, **more},
    }


def _by_method(kinds: dict[str, type[msgspec.Struct]]) -> Schema:
    refs, definitions = _components(kinds.values())
    properties = {name: refs[kind] for name, kind in kinds.items()}
    return {"$schema": _DIALECT, "properties": properties, "$defs": definitions}


def _error() -> Schema:
    body = {
        "type": "object",
        "required": ["code", "message"],
        "properties": {"code": {"type": "integer"}, "message": _TEXT, "data": {}},
    }
    return {
        "$schema": _DIALECT,
        "type": "object",
        "required": ["id", "error"],
        "properties": {"id": {"type": ["string", "integer", "null"]}, "error": body},
    }


def _components(
    kinds: Iterable[type[msgspec.Struct]],
) -> tuple[dict[type[msgspec.Struct], Schema], Schema]:
    ordered = list(dict.fromkeys(kinds))
    refs, definitions = msgspec.json.schema_components(ordered, ref_template="#/$defs/{name}")
    return dict(zip(ordered, refs, strict=True)), definitions
