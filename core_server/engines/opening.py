"""From the engine's name on the command line to the engine.

Only the one that was asked for is imported: a first answer shall not wait for the other.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from core_server.engines.base import Engine

if TYPE_CHECKING:
    from core_server.engines.endpoint.engine import WireName

ENGINES = ("offline", "openai")
WIRES: "tuple[WireName, ...]" = ("responses", "chat")

DEFAULT_OPENAI_MODEL = "gpt-5"


def build_engine(
    name: str, *, model: str | None, environ: Mapping[str, str], wire: "WireName" = "responses"
) -> Engine:
    """Build the engine `name`; connects to nothing.

    Args:
        name: One of `ENGINES`.
        model: Model name, or None for the engine's default.
        environ: `OPENAI_BASE_URL`, `OPENAI_API_KEY` and what `read_address` names are read.
        wire: What the endpoint of the engine `openai` speaks.

    Raises:
        ValueError: with one line that says what is wrong and what to do.
    """
    match name:
        case "offline":
            from core_server.engines.offline import OfflineEngine  # noqa: PLC0415 - see above

            return OfflineEngine(model or "offline")
        case "openai":
            return _build_openai(model or DEFAULT_OPENAI_MODEL, wire, environ)
        case _:
            raise ValueError(f"unknown engine {name!r}: use one of {', '.join(ENGINES)}")


def _build_openai(model: str, wire: "WireName", environ: Mapping[str, str]) -> Engine:
    api_key = environ.get("OPENAI_API_KEY", "").strip()
    if not environ.get("OPENAI_BASE_URL", "").strip() and not api_key:
        raise ValueError(
            "the engine openai needs OPENAI_API_KEY (for api.openai.com) "
            "or OPENAI_BASE_URL (for another endpoint, e.g. http://127.0.0.1:8000/v1)"
        )
    if not (api_key.isascii() and api_key.isprintable()):
        raise ValueError("OPENAI_API_KEY holds a character that no HTTP header can carry")
    from core_server.engines.endpoint.address import read_address  # noqa: PLC0415 - see above
    from core_server.engines.endpoint.engine import OpenAIEngine  # noqa: PLC0415 - see above

    return OpenAIEngine(model, address=read_address(environ), wire=wire, api_key=api_key)
