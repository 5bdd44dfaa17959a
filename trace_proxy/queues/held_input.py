"""How much input all clients together make us hold: unfinished messages, and ones that wait.

Each connection's own bound is the size of one message; a thousand of them would still be
gigabytes. What is over the bound is taken from whoever holds most.
"""


class HeldInput:
    """Bytes by client.

    Args:
        max_bytes: Of all together.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held: dict[int, int] = {}
        self.size_bytes = 0

    def __repr__(self) -> str:
        return f"<HeldInput clients={len(self._held)} bytes={self.size_bytes}>"

    def hold(self, key: int, size_bytes: int) -> int | None:
        """A client's held input is so much now.

        Returns:
            Whom to cut: who holds most, when all together hold too much; else None.
        """
        self.size_bytes += size_bytes - self._held.pop(key, 0)
        if size_bytes:
            self._held[key] = size_bytes
        if self.size_bytes <= self._max_bytes:
            return None
        return max(self._held, key=self._held.__getitem__)

    def leave(self, key: int) -> None:
        """A client is gone, and what it made us hold with it."""
        self.size_bytes -= self._held.pop(key, 0)
