"""Asks the client and waits: for an answer, for the time to be over, or to be cut off."""

import asyncio
from typing import Final, Generic, TypeVar

import msgspec
from msgspec import UNSET

from core_server.jsonrpc.messages import Message
from core_server.logs import logger
from core_server.outgoing.notifier import Voice
from core_server.protocol.approvals import RequestResolved
from core_server.turns.report import Narrator

W = TypeVar("W")


class Pending(Generic[W]):
    """Questions we asked the client and that are not settled yet; `W` is whoever waits.

    Each is settled once: by the first answer with its very id, or withdrawn when its turn
    ends or its time is over. Ids count from 0 and are never used again; an answer to any
    other id is nobody's and is ignored. What an answer means is not known here.
    """

    def __init__(self) -> None:
        self._next = 0
        self._open: dict[int, W] = {}

    def __repr__(self) -> str:
        return f"<Pending open={sorted(self._open)} next={self._next}>"

    def __len__(self) -> int:
        return len(self._open)

    def ask(self, asker: W) -> int:
        """Note a question; returns its id."""
        request_id = self._next
        self._next += 1
        self._open[request_id] = asker
        return request_id

    def settle(self, raw_id: bytes) -> W | None:
        """Take the answer with this id (JSON text, `7` and `"7"` differ), if it was awaited."""
        if not raw_id.isdigit() or len(raw_id) > 18:
            return None
        return self._open.pop(int(raw_id), None)

    def withdraw(self, request_id: int) -> bool:
        """Nobody waits any more; whether somebody did."""
        return self._open.pop(request_id, None) is not None


T = TypeVar("T", bound=msgspec.Struct)


class Unusable(msgspec.Struct, frozen=True):
    """The answer was an error, or not of the shape that was asked for."""


class Expired(msgspec.Struct, frozen=True):
    """Nobody answered in time."""


UNUSABLE: Final = Unusable()
EXPIRED: Final = Expired()


class Question(Generic[T]):
    """What is asked, and how its answer reads."""

    def __init__(self, method: str, params: msgspec.Struct, answer: type[T]) -> None:
        self.method = method
        self.params = params
        self.decoder = msgspec.json.Decoder(answer)


class Approvals:
    """The open questions of all turns.

    Args:
        voice: To the client.
        timeout_s: An unanswered question means no after so long.
    """

    def __init__(self, voice: Voice, timeout_s: float) -> None:
        self._voice = voice
        self._timeout_s = timeout_s
        self._pending: Pending[asyncio.Future[Message]] = Pending()

    def __repr__(self) -> str:
        return f"<Approvals {self._pending!r}>"

    def answered(self, request_id: bytes, message: Message) -> None:
        """Take an answer; one that nobody waits for is ignored."""
        waiting = self._pending.settle(request_id)
        if waiting is not None and not waiting.done():
            waiting.set_result(message)

    async def ask(self, narrator: Narrator, question: Question[T]) -> T | Unusable | Expired:
        """Ask and wait. The client is told when the question is settled.

        When the turn is cut meanwhile, it is told behind `turn/completed`, as with the
        reference.
        """
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        request_id = self._pending.ask(answer)
        resolved = RequestResolved(narrator.thread.id, request_id)
        self._voice.ask(question.method, request_id, question.params, narrator.thread)
        try:
            async with asyncio.timeout(self._timeout_s):
                message = await answer
        except TimeoutError:
            self._pending.withdraw(request_id)
            narrator.say("serverRequest/resolved", resolved)
            return EXPIRED
        except asyncio.CancelledError:
            self._pending.withdraw(request_id)
            narrator.say_at_last("serverRequest/resolved", resolved)
            raise
        narrator.say("serverRequest/resolved", resolved)
        return _read(message, question)


def _read(message: Message, question: Question[T]) -> T | Unusable:
    if message.result is not UNSET:
        try:
            return question.decoder.decode(message.result)
        except msgspec.DecodeError as error:
            why = type(error).__name__  # its text would quote what the client said
            logger().warning("core.answer_unusable", method=question.method, error=why)
            return UNUSABLE
    logger().warning("core.answer_is_error", method=question.method)
    return UNUSABLE
