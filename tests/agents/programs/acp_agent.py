"""A real ACP agent of the `agent-client-protocol` package, on stdio.

A prompt `run` asks for a permission and reports a tool call; `wait` waits to be
cancelled; anything else is said back. It tells the `_meta` of each prompt first.
"""

import asyncio
import json
from typing import Any, cast

from acp import (
    Agent,
    InitializeResponse,
    NewSessionResponse,
    PromptResponse,
    run_agent,
    start_tool_call,
    text_block,
    update_agent_message,
    update_tool_call,
)
from acp.interfaces import Client
from acp.schema import Implementation, PermissionOption, ToolCallUpdate


class Echo:
    """See the module; of the package's `Agent` it has what a client here asks for."""

    def __init__(self) -> None:
        self._client: Client | None = None
        self._cancelled = asyncio.Event()

    def on_connect(self, conn: Client) -> None:
        self._client = conn

    async def initialize(self, protocol_version: int, **_: Any) -> InitializeResponse:
        info = Implementation(name="echo", title="Echo agent", version="1")
        return InitializeResponse(protocol_version=protocol_version, agent_info=info)

    async def new_session(self, cwd: str, **_: Any) -> NewSessionResponse:  # noqa: ARG002 - as the package calls it
        return NewSessionResponse(session_id="echo-1")

    async def cancel(self, session_id: str, **_: Any) -> None:  # noqa: ARG002 - as the package calls it
        self._cancelled.set()

    async def prompt(self, session_id: str, prompt: list[Any], **more: Any) -> PromptResponse:
        text = prompt[0].text
        await self._say(session_id, json.dumps({"meta": more}, default=str))
        match text:
            case "run":
                await self._run(session_id)
            case "wait":
                await self._cancelled.wait()
                return PromptResponse(stop_reason="cancelled")
            case _:
                await self._say(session_id, text)
        return PromptResponse(stop_reason="end_turn")

    async def _say(self, session: str, text: str) -> None:
        assert self._client is not None
        await self._client.session_update(session, update_agent_message(text_block(text)))

    async def _run(self, session: str) -> None:
        client = self._client
        assert client is not None
        await client.session_update(
            session, start_tool_call("call-1", "rm CANARY", kind="execute", status="pending")
        )
        answer = await client.request_permission(
            session_id=session,
            tool_call=ToolCallUpdate(tool_call_id="call-1"),
            options=[PermissionOption(option_id="a", name="Yes", kind="allow_once")],
        )
        done = answer.outcome.outcome == "selected"
        ended = update_tool_call("call-1", status="completed" if done else "failed")
        await client.session_update(session, ended)


if __name__ == "__main__":
    asyncio.run(run_agent(cast("Agent", Echo())))
