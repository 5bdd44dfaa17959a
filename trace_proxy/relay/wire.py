"""The last messages that passed, without what they said: for people who watch.

Kept only while somebody watches; nobody else pays for it. A row has what a span may
have (method, connection, size, time, error code) and nothing of params or results.
"""

from collections import deque
from typing import Final, Literal

import msgspec

from trace_proxy.spans import semconv

ROWS: Final = 1_000
"""What the page keeps as well; more than anybody reads."""

NOBODY: Final = "-"
"""Whose connection is gone, or who never had one."""


class WireRow(msgspec.Struct, frozen=True, rename="camel"):
    """A message that passed.

    Attributes:
        id: Counts the messages of this process, from 1.
        way: `in` from a client, `out` to clients.
        method: What it was about; a request's row comes with its answer.
        connection: Its key, or how many were told.
        ms: From request to answer, None for what has no answer.
        bytes: Its size, of a request without its answer.
        error: The answer's error code, empty without one.
    """

    id: int
    way: Literal["in", "out"]
    method: str
    connection: str
    ms: float | None
    bytes: int
    error: str


class Wire:
    """The rows, newest last."""

    def __init__(self) -> None:
        self._rows: deque[WireRow] = deque(maxlen=ROWS)
        self._count = 0

    def __repr__(self) -> str:
        return f"<Wire {len(self._rows)} of {self._count}>"

    @property
    def count(self) -> int:
        """Messages seen so far: the id of the newest row."""
        return self._count

    def settled(self, method: str, connection: int | None, ns: int, size: int, error: str) -> None:
        """A client's request was answered, refused or lost after so long."""
        self._add("in", method, _name(connection), round(ns / 1e6, 1), size, error)

    def answered(self, method: str, connection: int, size: int) -> None:
        """A client answered what a core had asked."""
        self._add("in", method, _name(connection), None, size, "")

    def told(self, method: str, audience: list[int], sizes: list[int]) -> None:
        """Messages of one method went out to these connections."""
        whom = _name(audience[0]) if len(audience) == 1 else f"{len(audience)} clients"
        for size in sizes:
            self._add("out", method, whom, None, size, "")

    def since(self, count: int, most: int) -> tuple[list[WireRow], int]:
        """What came after the first `count` messages: the newest `most`, and how many more."""
        new = self._count - count
        shown = min(new, most, len(self._rows))
        rows = [self._rows[i] for i in range(len(self._rows) - shown, len(self._rows))]
        return rows, new - shown

    def _add(
        self,
        way: Literal["in", "out"],
        method: str,
        connection: str,
        ms: float | None,
        size: int,
        error: str,
    ) -> None:
        self._count += 1
        method = method[: semconv.ORIGINAL_METHOD_CHARS]
        self._rows.append(WireRow(self._count, way, method, connection, ms, size, error))


def _name(connection: int | None) -> str:
    return NOBODY if connection is None else f"#{connection}"
