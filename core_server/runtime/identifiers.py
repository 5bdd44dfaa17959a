"""UUIDv7: ids that sort by the time at which they were made (RFC 9562 section 5.7)."""

import os
import time

_VERSION = 0x7 << 76
_VARIANT = 0x2 << 62


class Uuid7:
    """Makes ids, each greater than the one before, also within a millisecond."""

    def __init__(self) -> None:
        self._last = 0

    def __call__(self) -> str:
        """A new id."""
        random = int.from_bytes(os.urandom(10))
        time_ms = time.time_ns() // 1_000_000
        fresh = time_ms << 80 | _VERSION | (random >> 68) << 64 | _VARIANT | random & (1 << 62) - 1
        if fresh <= self._last:
            fresh = self._last + 1
            fresh = fresh & ~(0x3 << 62) | _VARIANT
        self._last = fresh
        text = f"{fresh:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
