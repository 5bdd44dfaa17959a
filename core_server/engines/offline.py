"""The offline engine: deterministic, no network, no model; the default.

It echoes, and its directives exercise all that a turn can hold. What it answers is
written in `offline_script`; this keeps the pauses and counts the words.
"""

import asyncio
from collections.abc import AsyncGenerator

from core_server.engines.base import (
    Event,
    MessageDone,
    Model,
    Prompt,
    ReasoningDone,
    ToolCall,
    Usage,
)
from core_server.engines.history import since_compaction
from core_server.engines.item_ids import new_id
from core_server.engines.offline_script import Pause, Script, count_words

# Slow enough to be seen as streaming, fast enough for tests.
WORD_DELAY_S = 0.004


class OfflineEngine:
    """Answers from the input alone; see the module.

    Args:
        model: The name that it goes by.
        word_delay_s: Pause between two words.
    """

    def __init__(self, model: str = "offline", *, word_delay_s: float = WORD_DELAY_S) -> None:
        self._script = Script(new_id, word_delay_s)
        self._models = (
            Model(
                id=model,
                display_name="Offline",
                description="Deterministic, no network: echoes text; /help lists its directives.",
                modalities=("text", "image"),
            ),
        )

    @property
    def provider(self) -> str:
        """Return `offline`."""
        return "offline"

    @property
    def models(self) -> tuple[Model, ...]:
        """Return its one model."""
        return self._models

    async def sample(self, prompt: Prompt) -> AsyncGenerator[Event, None]:
        """Stream one response; words are its tokens.

        Raises:
            EngineError: for `/fail`.
        """
        output_words = reasoning_words = 0
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        for step in self._script.answer(prompt):
            if isinstance(step, Pause):
                # Counted from the start, so that a busy loop's delays do not add up.
                due_s += step.seconds
                await asyncio.sleep(due_s - loop.time())
                continue
            yield step
            match step:
                case MessageDone(_, text) | ToolCall(_, _, text):
                    output_words += len(text.split())
                case ReasoningDone(_, summary):
                    reasoning_words += sum(len(part.split()) for part in summary)
                case _:
                    pass
        yield Usage(
            input_tokens=sum(map(count_words, since_compaction(prompt.history))),
            output_tokens=output_words + reasoning_words,
            reasoning_output_tokens=reasoning_words,
        )

    async def close(self) -> None:
        """Do nothing: it holds nothing."""
