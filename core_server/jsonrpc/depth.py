"""How deep valid JSON is nested, in time that depends on its bytes and not on its shape.

Everything here is a few passes of C over the whole document, since a loop of Python over
the brackets of 15 MiB would hold up everybody for seconds:

    document ──without escapes──> brackets and quotes ──without strings──> brackets
        as bits, 1 opens and 0 closes; sixteen of them are one entry of a table

Brackets in strings are told from others by the parity of the quotes before them: all
prefix parities at once are log2(n) shifts and XORs of one long integer (as in Langdale and
Lemire, "Parsing Gigabytes of JSON per Second", section 3.1.1).
"""

import sys
from collections.abc import Iterable
from functools import cache
from itertools import accumulate
from operator import add
from typing import Final

_BLOCK: Final = 16  # brackets that are looked up at once: a table of 65,536 entries
_NO_MARKS: Final = bytes(byte for byte in range(256) if byte not in b'[]{}"')
_ONE_KIND: Final = bytes.maketrans(b"{}", b"[]")
_OPENS: Final = bytes.maketrans(b"[]", b"10")
_QUOTES: Final = bytes.maketrans(b'"[]', b"100")
_OPENING: Final = ord("[")
_KEPT: Final = bytes.maketrans(b"01", b"\xff\x00")


def is_deeper(document: bytes, limit: int) -> bool:
    """Whether valid JSON has more than `limit` levels of arrays and objects."""
    if document.count(b"{") + document.count(b"[") <= limit:
        return False
    brackets = _outside_strings(_marks(document))
    # The innermost pairs first: what is left of an ordinary document soon is nothing.
    for level in range(limit):
        if len(brackets) <= 2 * (limit - level):
            return False
        left = brackets.replace(b"[]", b"")
        if len(left) > len(brackets) * 3 // 4:  # no ordinary document: once and for all
            return _deepest(left) > limit - level - 1
        brackets = left
    return bool(brackets)


def _marks(document: bytes) -> bytes:
    """Brackets of one kind and quotes, without those that are escaped."""
    if b"\\" in document:
        document = document.replace(b"\\\\", b"").replace(b'\\"', b"")
    return document.translate(_ONE_KIND, _NO_MARKS).replace(b'""', b"")


def _outside_strings(marks: bytes) -> bytes:
    """The brackets that are no part of a string."""
    if b'"' not in marks:
        return marks
    size = len(marks)
    inside = int(marks.translate(_QUOTES), 2)
    shift = 1
    while shift < size:
        inside ^= inside >> shift
        shift *= 2
    # A quote that opens is inside by this, one that closes is not: both go below.
    mask = format(inside, f"0{size}b").encode().translate(_KEPT)
    kept = int.from_bytes(marks, "big") & int.from_bytes(mask, "big")
    return kept.to_bytes(size, "big").translate(None, b'\0"')


def _deepest(brackets: bytes) -> int:
    """The most that are open at once."""
    whole = len(brackets) // _BLOCK * _BLOCK
    bits = int(brackets[:whole].translate(_OPENS) or b"0", 2)
    blocks = memoryview(bits.to_bytes(whole // 8, "big")).cast("H")
    rises, peaks = _tables()
    levels = accumulate(map(rises.__getitem__, blocks), initial=0)
    deepest = max(map(add, levels, map(peaks.__getitem__, blocks)), default=0)
    level = 2 * bits.bit_count() - whole
    return max(deepest, _last(level, brackets[whole:]))


def _last(level: int, brackets: bytes) -> int:
    """The same for what is left behind the last block."""
    steps: Iterable[int] = (1 if bracket == _OPENING else -1 for bracket in brackets)
    return max(accumulate(steps, initial=level))


@cache
def _tables() -> tuple[list[int], list[int]]:
    """For sixteen brackets as the machine reads them: where they lead, and the peak on the way."""
    rises, peaks = [0] * (1 << _BLOCK), [0] * (1 << _BLOCK)
    byte_rise, byte_peak = _of_bytes()
    for first in range(256):
        for second in range(256):
            entry = int.from_bytes(bytes((first, second)), sys.byteorder)
            rises[entry] = byte_rise[first] + byte_rise[second]
            peaks[entry] = max(byte_peak[first], byte_rise[first] + byte_peak[second])
    return rises, peaks


def _of_bytes() -> tuple[list[int], list[int]]:
    rises, peaks = [], []
    for byte in range(256):
        steps = [1 if byte >> bit & 1 else -1 for bit in range(7, -1, -1)]
        path = list(accumulate(steps))
        rises.append(path[-1])
        peaks.append(max(path))
    return rises, peaks
