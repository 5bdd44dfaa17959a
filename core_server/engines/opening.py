"""From the engine's name on the command line to the engine."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from core_server.engines.base import Engine
from core_server.engines.offline import OfflineEngine
from core_server.engines.openai_responses import PUBLIC_BASE_URL, OpenAIEngine

ENGINES = ("offline", "openai")

DEFAULT_OPENAI_MODEL = "gpt-5"


def build_engine(name: str, *, model: str | None, environ: Mapping[str, str]) -> Engine:
    """Build the engine `name`; connects to nothing.

    Args:
        name: One of `ENGINES`.
        model: Model name, or None for the engine's default.
        environ: `OPENAI_BASE_URL` and `OPENAI_API_KEY` are read from it.

    Raises:
        ValueError: with one line that says what is wrong and what to do.
    """
    match name:
        case "offline":
            return OfflineEngine(model or "offline")
        case "openai":
            return _build_openai(model or DEFAULT_OPENAI_MODEL, environ)
        case _:
            raise ValueError(f"unknown engine {name!r}: use one of {', '.join(ENGINES)}")


def _build_openai(model: str, environ: Mapping[str, str]) -> Engine:
    base_url = environ.get("OPENAI_BASE_URL", "").strip()
    api_key = environ.get("OPENAI_API_KEY", "").strip()
    if not base_url and not api_key:
        raise ValueError(
            "the engine openai needs OPENAI_API_KEY (for api.openai.com) "
            "or OPENAI_BASE_URL (for another endpoint, e.g. http://127.0.0.1:8000/v1)"
        )
    if base_url and not _is_http_url(base_url):
        raise ValueError(
            "OPENAI_BASE_URL is not an http or https URL: "
            "it should look like http://127.0.0.1:8000/v1"
        )
    if not (api_key.isascii() and api_key.isprintable()):
        raise ValueError("OPENAI_API_KEY holds a character that no HTTP header can carry")
    return OpenAIEngine(model, base_url=base_url or PUBLIC_BASE_URL, api_key=api_key)


def _is_http_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
