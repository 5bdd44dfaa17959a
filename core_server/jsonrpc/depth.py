"""How deep valid JSON is nested, in time that depends on its bytes and not on its shape.

Everything here is a few passes of C over the whole document, since a loop of Python over
the brackets of 15 MiB would hold up everybody for seconds:

    document ──without escapes──> brackets and quotes, in pages ──without strings──> brackets
        as bits, 1 opens and 0 closes; sixteen of them are one entry of a table
"""

import sys
from functools import cache
from itertools import accumulate
from operator import add
from typing import Final

_BLOCK: Final = 16  # brackets that are looked up at once: a table of 65,536 entries
_PAGE: Final = 1024  # brackets: so few distinct ones that they are worth to be remembered
_KNOWN_PAGES: Final = 1024  # of one document: a megabyte
_NO_MARKS: Final = bytes(byte for byte in range(256) if byte not in b'[]{}"')
_NO_VALUES: Final = bytes(byte for byte in range(256) if byte not in b'[{,"')
_ONE_KIND: Final = bytes.maketrans(b"{}", b"[]")
_OPENS: Final = bytes.maketrans(b"[]", b"10")
_OPENING: Final = ord("[")

_Leads = tuple[int, int, int]
"""Where a page leads, how far up on the way, and whether it ends within a string (1) or not."""


def openings(document: bytes) -> int:
    """How many brackets open, those within strings too: no more levels than that."""
    return document.count(b"{") + document.count(b"[")


def values(document: bytes) -> int:
    """How many values valid JSON has, the empty array or object counting as one of its own."""
    marks = _unescaped(document).translate(None, _NO_VALUES).replace(b'""', b"")
    return sum(map(len, marks.split(b'"')[::2]))


def has_more(document: bytes, limit: int) -> bool:
    """Whether valid JSON has more than so many arrays and objects; a string holds none."""
    marks, opened, inside = _marks(document), 0, 0
    for at in range(0, len(marks), _PAGE):
        parts = marks[at : at + _PAGE].split(b'"')
        opened += sum(part.count(b"[") for part in parts[inside::2])
        if opened > limit:
            return True
        inside = (inside + len(parts) - 1) % 2
    return False


def is_deeper(document: bytes, limit: int) -> bool:
    """Whether valid JSON has more than `limit` levels of arrays and objects."""
    return _climbs_over(_marks(document), limit)


def _marks(document: bytes) -> bytes:
    """Brackets of one kind and quotes, without those that are escaped."""
    return _unescaped(document).translate(_ONE_KIND, _NO_MARKS).replace(b'""', b"")


def _unescaped(document: bytes) -> bytes:
    if b"\\" not in document:
        return document
    return document.replace(b"\\\\", b"").replace(b'\\"', b"")


def _climbs_over(marks: bytes, limit: int) -> bool:
    """Whether more than `limit` brackets outside of strings are open at once.

    Page by page, and equal pages once: a document of millions of brackets that was not
    made at random says the same again and again.
    """
    known: tuple[dict[bytes, _Leads], dict[bytes, _Leads]] = ({}, {})
    level = inside = 0
    for at in range(0, len(marks), _PAGE):
        page, of_kind = marks[at : at + _PAGE], known[inside]
        leads = of_kind.get(page)
        if leads is None:
            parts = page.split(b'"')
            rise, peak = _leads(b"".join(parts[inside::2]))
            leads = rise, peak, (inside + len(parts) - 1) % 2
            if len(of_kind) < _KNOWN_PAGES:
                of_kind[page] = leads
        rise, peak, inside = leads
        if level + peak > limit:
            return True
        level += rise
    return False


def _leads(brackets: bytes) -> tuple[int, int]:
    """Where brackets lead from where they begin, and how far up at most on the way."""
    whole = len(brackets) // _BLOCK * _BLOCK
    bits = int(brackets[:whole].translate(_OPENS) or b"0", 2)
    blocks = memoryview(bits.to_bytes(whole // 8, "big")).cast("H")
    rises, peaks = _tables()
    levels = accumulate(map(rises.__getitem__, blocks), initial=0)
    highest = max(map(add, levels, map(peaks.__getitem__, blocks)), default=0)
    level = 2 * bits.bit_count() - whole
    for bracket in brackets[whole:]:
        level += 1 if bracket == _OPENING else -1
        highest = max(highest, level)
    return level, highest


@cache
def _tables() -> tuple[list[int], list[int]]:
    """For sixteen brackets as the machine reads them: where they lead, and the peak on the way."""
    byte_rise, byte_peak = _of_bytes()
    of_bytes = list(zip(byte_rise, byte_peak, strict=True))
    little = sys.byteorder == "little"  # then the second byte is the higher one
    rises: list[int] = []
    peaks: list[int] = []
    for rise, peak in of_bytes:  # whole rows: whoever comes first waits for it
        if little:
            rises += [first_rise + rise for first_rise in byte_rise]
            peaks += [b if (b := first_rise + peak) > a else a for first_rise, a in of_bytes]
        else:
            rises += [rise + second_rise for second_rise in byte_rise]
            peaks += [b if (b := rise + second_peak) > peak else peak for second_peak in byte_peak]
    return rises, peaks


def _of_bytes() -> tuple[list[int], list[int]]:
    rises, peaks = [], []
    for byte in range(256):
        steps = [1 if byte >> bit & 1 else -1 for bit in range(7, -1, -1)]
        path = list(accumulate(steps))
        rises.append(path[-1])
        peaks.append(max(path))
    return rises, peaks
