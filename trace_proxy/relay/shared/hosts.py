"""How many hosts serve together: a core here knows, since it shares their store.

It is asked while somebody looks; between two answers the last one stands, and without a
core that tells there is no number.
"""

from typing import Final

import msgspec
from msgspec import UNSET

from trace_proxy.protocol.envelope import CoreMessage
from trace_proxy.relay.board import Board
from trace_proxy.state.core_session import CoreState

ASK_S: Final = 3.0
"""Between two questions: a host tells the store that it lives as often."""


class _Host(msgspec.Struct, rename="camel"):
    url: str
    lease_s: float


class _Answer(msgspec.Struct):
    data: list[_Host]


_ANSWER: Final = msgspec.json.Decoder(_Answer)


class Hosts:
    """Asks a core here, and keeps what it said.

    Args:
        board: Whose cores are asked.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self._ask_at_s = 0.0
        self._living: int | None = None

    def __repr__(self) -> str:
        return f"<Hosts living={self._living}>"

    def look(self, now_s: float) -> int | None:
        """Hosts with a lease, this one among them; None while no core has told.

        Asks again, where it is time for it and a core is up.
        """
        core = next((each for each in self._board.cores if each.state is CoreState.READY), None)
        if core is not None and now_s >= self._ask_at_s:
            self._ask_at_s = now_s + ASK_S
            self._board.ask(core, "host/list", b"{}", self._told)
        return self._living

    def _told(self, answer: CoreMessage | None) -> None:
        if answer is None or answer.result is UNSET:
            return
        try:
            hosts = _ANSWER.decode(answer.result).data
        except msgspec.DecodeError:
            self._living = None
        else:
            self._living = len({host.url for host in hosts if host.lease_s > 0})
