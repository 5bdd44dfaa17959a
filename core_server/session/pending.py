"""Questions we asked the client and that are not settled yet.

Each is settled once: by the first answer with its very id, or withdrawn when its turn
ends or its time is over. Ids count from 0 and are never used again; an answer to any
other id is nobody's and is ignored. What an answer means is not known here.
"""

from typing import Generic, TypeVar

T = TypeVar("T")


class Pending(Generic[T]):
    """The table of open questions; `T` is whoever waits."""

    def __init__(self) -> None:
        self._next = 0
        self._open: dict[int, T] = {}

    def __repr__(self) -> str:
        return f"<Pending open={sorted(self._open)} next={self._next}>"

    def __len__(self) -> int:
        return len(self._open)

    def ask(self, asker: T) -> int:
        """Note a question; returns its id."""
        request_id = self._next
        self._next += 1
        self._open[request_id] = asker
        return request_id

    def settle(self, raw_id: bytes) -> T | None:
        """Take the answer with this id (JSON text, `7` and `"7"` differ), if it was awaited."""
        if not raw_id.isdigit() or len(raw_id) > 18:
            return None
        return self._open.pop(int(raw_id), None)

    def withdraw(self, request_id: int) -> bool:
        """Nobody waits any more; whether somebody did."""
        return self._open.pop(request_id, None) is not None
