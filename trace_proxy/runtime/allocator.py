"""Large buffers go back to the system when they are freed.

glibc raises the size from which it maps a buffer of its own to the largest that was ever
freed, up to 32 MiB. After one message of many megabytes the next ones are cut out of the
heap, whose holes are resident memory that nobody uses. A fixed size keeps the old rule.
"""

import ctypes
from typing import Final

MAPPED_BYTES: Final = 1024 * 1024
"""Above what a socket gives at once, so that ordinary traffic stays on the heap."""

KEPT_BYTES: Final = 8 * 1024 * 1024
"""Of free heap that is not given back: with a fixed size glibc would keep 128 KiB, and ask
the system for pages again and again."""

_M_TRIM_THRESHOLD: Final = -1  # malloc.h; see mallopt(3)
_M_MMAP_THRESHOLD: Final = -3


def return_large_buffers() -> bool:
    """Fix that size; False where the C library knows no such thing (musl)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return (
        mallopt is not None
        and mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES) == 1
        and mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES) == 1
    )
