"""`params._meta`: where MCP and ACP carry a trace context.

MCP reserves `traceparent`, `tracestate` and `baggage` there (SEP-414), ACP has taken it
over. Reading and writing the member; what the texts mean is `context`'s business.
"""

from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

_NAME: Final = b'"_meta"'


class _Params(msgspec.Struct, gc=False):
    meta: Raw | UnsetType = msgspec.field(name="_meta", default=UNSET)


_PARAMS = msgspec.json.Decoder(_Params)
_MEMBERS = msgspec.json.Decoder(dict[str, Raw])
_ENCODE = msgspec.json.Encoder().encode


def meta_of(params: bytes | None) -> bytes | None:
    """JSON of `_meta`, None where params have none."""
    if params is None or params.find(_NAME) < 0:  # `in` takes twice as long
        return None
    try:
        meta = _PARAMS.decode(params).meta
    except msgspec.DecodeError:
        return None
    return None if meta is UNSET else bytes(meta)


def with_context(message: bytes, traceparent: str, tracestate: str) -> bytes:
    """A request that carries a context in `params._meta`, and is otherwise as it was.

    Its other members, and those of `params` and `_meta`, keep their bytes and their order.
    Where params or `_meta` are no object, nothing can be put there.

    Args:
        message: A JSON object.
        traceparent: Takes the place of the client's.
        tracestate: The same; empty: the client's goes.
    """
    members = _MEMBERS.decode(message)
    params = _object(members.get("params"))
    meta = None if params is None else _object(params.get("_meta"), null=True)
    if params is None or meta is None:
        return message
    meta["traceparent"] = Raw(b'"%b"' % traceparent.encode())
    if tracestate:
        meta["tracestate"] = Raw(_ENCODE(tracestate))
    else:
        meta.pop("tracestate", None)
    params["_meta"] = Raw(_ENCODE(meta))
    members["params"] = Raw(_ENCODE(params))
    return _ENCODE(members)


def _object(value: Raw | None, *, null: bool = False) -> dict[str, Raw] | None:
    """The members of an object, none of an absent one; None where it is no object."""
    if value is None or (null and bytes(value) == b"null"):
        return {}
    try:
        return _MEMBERS.decode(value)
    except msgspec.DecodeError:
        return None
