"""Handles that clients choose (`processId`, `watchId`, …), made unique towards a core.

Two clients may both say `"p1"`. The core sees `"<connection>/p1"`, so its
notifications carry their owner in their name and no table is needed to route them.
"""

from typing import Final

import msgspec

from trace_proxy.methods import HANDLES, HandleFamily

_ENCODE = msgspec.json.Encoder().encode
_SEPARATOR: Final = "/"

Document = dict[str, msgspec.Raw]


class Qualified(msgspec.Struct, frozen=True):
    """Params for the core, and both spellings of the handle."""

    params: bytes
    family: HandleFamily
    handle: str
    spellings: tuple[bytes, bytes]


def qualify(method: str, params: bytes | None, key: int) -> Qualified | None:
    """Put the connection into the handle; None when the params have none to change."""
    family = HANDLES.get(method)
    if family is None or params is None:
        return None
    document = _document(params)
    handle = _string(document, family.field)
    if handle is None:
        return None
    ours = f"{key}{_SEPARATOR}{handle}"
    document[family.field] = msgspec.Raw(_ENCODE(ours))
    spellings = (_ENCODE(handle)[1:-1], _ENCODE(ours)[1:-1])
    return Qualified(_ENCODE(document), family, handle, spellings)


def closing_params(family: HandleFamily, handle: str, key: int) -> bytes:
    """Params of the request that ends what a handle names."""
    return _ENCODE({family.field: f"{key}{_SEPARATOR}{handle}"})


def owner(method: str, params: bytes) -> tuple[int, bytes] | None:
    """Whose handle a core's notification names, and the params as that client knows them."""
    family = HANDLES.get(method)
    if family is None:
        return None
    document = _document(params)
    handle = _string(document, family.field)
    if handle is None:
        return None
    key, separator, name = handle.partition(_SEPARATOR)
    if not separator or not key.isdecimal():
        return None
    document[family.field] = msgspec.Raw(_ENCODE(name))
    return int(key), _ENCODE(document)


def restore(answer: bytes, spellings: tuple[bytes, bytes]) -> bytes:
    """An answer that repeats the handle, in the client's spelling."""
    theirs, ours = spellings
    return answer.replace(ours, theirs)


def _document(params: bytes) -> Document:
    try:
        return msgspec.json.decode(params, type=Document)
    except msgspec.DecodeError:
        return {}


def _string(document: Document, field: str) -> str | None:
    try:
        value = msgspec.json.decode(document[field])
    except (KeyError, msgspec.DecodeError):
        return None
    return value if isinstance(value, str) else None
