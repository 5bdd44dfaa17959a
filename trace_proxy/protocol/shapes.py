"""What a core's results tell beside their asker: which thread lives, which turn runs.

Shared by the machines that watch answers; all other members stay undecoded.
"""

from typing import Annotated, Final

import msgspec

Name = Annotated[str, msgspec.Meta(min_length=1)]


class Named(msgspec.Struct):
    """An object of which only its id matters."""

    id: Name


class ThreadResult(msgspec.Struct):
    """Of `thread/start`, `thread/resume` and `thread/fork`."""

    thread: Named
    model: str = ""


class TurnResult(msgspec.Struct):
    """Of `turn/start` and `review/start`."""

    turn: Named


class ReviewResult(msgspec.Struct, rename="camel"):
    """Of `review/start`: the thread that the review runs in."""

    review_thread_id: Name


THREAD: Final = msgspec.json.Decoder(ThreadResult)
TURN: Final = msgspec.json.Decoder(TurnResult)
REVIEW: Final = msgspec.json.Decoder(ReviewResult)
