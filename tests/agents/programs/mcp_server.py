"""A real MCP server of the `mcp` package, on stdio.

Tools: `add`, `fail` (raises), `slow` (sleeps), `ask` (elicits), `meta` (its `_meta`).
"""

import asyncio
import json
from typing import Any

from mcp.server.fastmcp import Context, FastMCP
from pydantic import BaseModel

server = FastMCP("real")


class Answer(BaseModel):
    """What a person is asked for."""

    sure: bool


@server.tool()
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


@server.tool()
def fail() -> str:
    """Fail."""
    raise ValueError("CANARY")


@server.tool()
async def slow(seconds: float) -> str:
    """Take a while."""
    await asyncio.sleep(seconds)
    return "slept"


@server.tool()
async def ask(context: Context[Any, Any, Any]) -> str:
    """Ask a person."""
    answer = await context.elicit("Sure?", Answer)
    return answer.action


@server.tool()
def meta(context: Context[Any, Any, Any]) -> str:
    """Tell what the request carried."""
    carried = context.request_context.meta
    return json.dumps(None if carried is None else carried.model_dump(mode="json"))


@server.prompt()
def greeting(name: str) -> str:
    """Greet."""
    return f"Hello {name}"


if __name__ == "__main__":
    server.run("stdio")
