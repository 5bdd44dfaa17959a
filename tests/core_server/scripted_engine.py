"""An engine that says what a test wrote down: one list of events for each sample."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence

from core_server.engines.base import Event, MessageDone, Model, Prompt, ToolCall


def call(name: str, **arguments: object) -> ToolCall:
    """A tool call; its id is its name."""
    return ToolCall(f"call_{name}", name, json.dumps(arguments))


class ScriptedEngine:
    """Plays its script; afterwards every sample says `done`.

    Attributes:
        prompts: What it was asked.
    """

    provider = "scripted"
    models = (Model("m1", "One", "first", context_window=1000), Model("m2", "Two", "second"))

    def __init__(self, *samples: Sequence[Event | Exception]) -> None:
        self._samples = list(samples)
        self.prompts: list[Prompt] = []
        self.closed = False

    async def sample(self, prompt: Prompt) -> AsyncGenerator[Event, None]:
        """The next list of events; an exception in it is raised."""
        self.prompts.append(prompt)
        sample: Sequence[Event | Exception]
        sample = (
            self._samples.pop(0)
            if self._samples
            else [MessageDone(f"m{len(self.prompts)}", "done")]
        )
        for step in sample:
            await asyncio.sleep(0)
            if isinstance(step, Exception):
                raise step
            yield step

    async def close(self) -> None:
        """Note it."""
        self.closed = True
