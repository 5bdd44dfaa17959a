"""Handles that clients choose (`processId`, `watchId`, …), made unique towards a core.

Two clients may both say `"p1"`. The core sees `"<connection>/p1"`, so its
notifications carry their owner in their name and no table is needed to route them.
"""

import re
from typing import Final

import msgspec

from trace_proxy.protocol.methods import HANDLES, HandleFamily

_ENCODE = msgspec.json.Encoder().encode
_SEPARATOR: Final = "/"
Document = dict[str, msgspec.Raw]


class Qualified(msgspec.Struct, frozen=True):
    """Params for the core, and both spellings of the handle.

    Attributes:
        params: JSON, with the core's spelling.
        family: What kind of handle it is.
        name: The handle as `Connection.handles` has it.
        spellings: The client's and the core's, as they stand in JSON.
    """

    params: bytes
    family: HandleFamily
    name: tuple[str, str]
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
    return Qualified(_ENCODE(document), family, (family.opens, handle), spellings)


def closing_params(family: HandleFamily, handle: str, key: int) -> bytes:
    """Params of the request that ends what a handle names."""
    return _ENCODE({family.field: f"{key}{_SEPARATOR}{handle}"})


def owner(method: str, params: bytes) -> tuple[int, str, bytes] | None:
    """Whose handle a core's notification names, the handle, and the params as they know them."""
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
    return int(key), name, _ENCODE(document)


def restore(answer: bytes, spellings: tuple[bytes, bytes], *, failed: bool) -> bytes:
    """An answer that repeats the handle, in the client's spelling.

    Output of a command may hold the same characters by chance and must stay as it is: in
    a result only a string that is the handle counts, in an error's text a whole word.
    """
    theirs, ours = spellings
    if ours not in answer:
        return answer
    if not failed:
        return answer.replace(b'"%b"' % ours, b'"%b"' % theirs)
    return re.sub(rb"(?<![\w/])%b(?!\w)" % re.escape(ours), lambda _: theirs, answer)


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
