"""The few words of the protobuf wire format that OTLP is spelled in.

https://protobuf.dev/programming-guides/encoding/.  Whole values in, bytes out; a field
is its tag byte (number x 8 + wire type), then the payload.  It is no protobuf library:
no descriptors, no parsing.
"""

import struct
from collections.abc import Mapping, Sequence

from opentelemetry.util.types import AnyValue

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1

_double = struct.Struct("<d").pack
_fixed32 = struct.Struct("<BI").pack
_fixed64 = struct.Struct("<BQ").pack


def varint(number: int) -> bytes:
    """Encode a non-negative integer in groups of seven bits, least significant first."""
    if number < 0x80:
        return bytes((number,))
    groups = bytearray()
    while number >= 0x80:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)


def field(tag: int, payload: bytes) -> bytes:
    """Encode a length-delimited field, present even when it is empty. `tag` is one byte."""
    return b"%c%b%b" % (tag, varint(len(payload)), payload)


def text(tag: int, value: str | None) -> bytes:
    """Encode a string field; an empty one is absent, as proto3 has it."""
    return field(tag, value.encode()) if value else b""


def count(tag: int, number: int) -> bytes:
    """Encode a uint32 field; zero is absent."""
    return b"%c%b" % (tag, varint(number)) if number else b""


def fixed32(tag: int, number: int) -> bytes:
    """Encode a fixed32 field, present even when it is zero.

    Raises:
        struct.error: The number does not fit.
    """
    return _fixed32(tag, number)


def fixed64(tag: int, number: int) -> bytes:
    """Encode a fixed64 field, present even when it is zero.

    Raises:
        struct.error: The number does not fit.
    """
    return _fixed64(tag, number)


def attributes(tag: int, values: Mapping[str, AnyValue] | None) -> bytes:
    """Encode `repeated KeyValue attributes`.

    Raises:
        ValueError, TypeError: A value that OTLP cannot carry.
    """
    pairs = values.items() if values else ()
    return b"".join([field(tag, key_value(key, value)) for key, value in pairs])


def key_value(key: str, value: AnyValue) -> bytes:
    """Encode opentelemetry.proto.common.v1.KeyValue.

    Raises:
        ValueError, TypeError: A value that OTLP cannot carry.
    """
    return text(0x0A, key) + field(0x12, any_value(value))


def any_value(value: AnyValue) -> bytes:
    """Encode opentelemetry.proto.common.v1.AnyValue, a oneof: empty means null.

    Raises:
        ValueError, TypeError: A value that OTLP cannot carry.
    """
    if isinstance(value, str):
        return field(0x0A, value.encode())
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        return b"\x18" + _int64(value)
    if isinstance(value, float):
        return b"\x21" + _double(value)
    return _compound_value(value)


def _compound_value(value: AnyValue) -> bytes:
    if value is None:
        return b""
    if isinstance(value, bytes):
        return field(0x3A, value)
    if isinstance(value, Sequence):
        return field(0x2A, b"".join([field(0x0A, any_value(item)) for item in value]))
    if isinstance(value, Mapping):
        pairs = [field(0x0A, key_value(str(key), item)) for key, item in value.items()]
        return field(0x32, b"".join(pairs))
    raise TypeError(f"OTLP has no value of type {type(value).__name__}")


def _int64(number: int) -> bytes:
    if not _INT64_MIN <= number <= _INT64_MAX:
        raise ValueError("not an int64")
    return varint(number & 0xFFFF_FFFF_FFFF_FFFF)
