"""Jaeger's AI gateway as a client: what it sends to an ACP agent, and how it answers.

It opens the websocket, says `initialize`, `session/new` and one `session/prompt` with its
own span in `_meta`, denies what the agent asks permission for, and closes when the prompt
is answered.
"""

from typing import Any

from tests.collector import CollectedSpan
from tests.e2e.clients import WAIT_S, WebsocketClient
from tests.e2e.traces import Stage, new_trace_id, traceparent

Json = dict[str, Any]


class Gateway:
    """One chat.

    Attributes:
        client: Its connection.
        patience_s: For each answer.
        trace_id: Of the span that it has opened for the chat.
        session: The agent's session, empty before `open`.
    """

    def __init__(self, client: WebsocketClient, patience_s: float = WAIT_S) -> None:
        self.client = client
        self.patience_s = patience_s
        self.trace_id = new_trace_id()
        self.session = ""

    @property
    def meta(self) -> Json:
        """What carries its context."""
        return {"traceparent": traceparent(self.trace_id), "jaeger": {"tab": 1}}

    async def open(self, directory: str = "/") -> Json:
        """Greet the agent and open a session; returns the agent's greeting."""
        greeting = await self._request(
            "initialize",
            {
                "protocolVersion": 1,
                "clientCapabilities": {"fs": {"readTextFile": False, "writeTextFile": False}},
                "clientInfo": {"name": "jaeger", "version": "2.21.0"},
            },
        )
        opened = await self._request("session/new", {"cwd": directory, "mcpServers": []})
        self.session = opened["sessionId"]
        return greeting

    async def _request(self, method: str, params: Json) -> Json:
        request = await self.client.begin(method, params, jsonrpc="2.0")
        return await self.client.answer(request, self.patience_s)

    async def begin(self, text: str) -> int:
        """Send a prompt; returns its id."""
        params = {
            "_meta": self.meta,
            "sessionId": self.session,
            "prompt": [{"type": "text", "text": text}],
        }
        return await self.client.begin("session/prompt", params, jsonrpc="2.0")

    async def end(self, prompt: int, permit: str = "") -> Json:
        """Read until a prompt is answered, deciding what is asked; returns its result.

        Args:
            prompt: Its id.
            permit: The kind of option to choose; empty: everything is denied.
        """

        def speaks(message: Json) -> bool:
            return message.get("id") == prompt or ("method" in message and "id" in message)

        while True:
            message = await self.client.wait(speaks, self.patience_s)
            if "method" not in message:
                assert "result" in message, message
                result: Json = message["result"]
                return result
            await self.client.send(
                {"jsonrpc": "2.0", "id": message["id"], **_answer(message, permit)}
            )

    async def prompt(self, text: str, permit: str = "") -> Json:
        """Send a prompt and read until it is answered."""
        return await self.end(await self.begin(text), permit)

    @property
    def text(self) -> str:
        """What the agent has said."""
        updates = [
            each["params"]["update"]
            for each in self.client.received
            if each.get("method") == "session/update"
        ]
        chunks = [each for each in updates if each["sessionUpdate"] == "agent_message_chunk"]
        return "".join(each["content"].get("text", "") for each in chunks)


def _answer(message: Json, permit: str) -> Json:
    if message["method"] != "session/request_permission":
        return {"error": {"code": -32601, "message": "Method not found"}}
    chosen = [each["optionId"] for each in message["params"]["options"] if each["kind"] == permit]
    if chosen:
        return {"result": {"outcome": {"outcome": "selected", "optionId": chosen[0]}}}
    return {"result": {"outcome": {"outcome": "cancelled"}}}


async def spans_of(stage: Stage, gateway: Gateway, count: int) -> list[CollectedSpan]:
    """The spans of a chat's trace, when there are so many."""

    def of_chat() -> list[CollectedSpan]:
        return [each for each in stage.collector.spans if each.trace_id == gateway.trace_id]

    await stage.collector.wait_for(lambda _: len(of_chat()) >= count)
    return of_chat()
