"""The real `codex`, from the package that the official client brings: home, command, model.

    async with ResponsesApi() as api:
        home = codex_home(directory, api.url)
        core = app_server()

Its home is a directory of the test's own: the only model is `tests.responses_api`, nothing
is measured or reported, and nothing of the user's own configuration is read.
"""

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

MODEL = "gpt-5.1-codex"

_CONFIG = """\
model = "{model}"
model_provider = "local"
check_for_update_on_startup = false

[model_providers.local]
name = "local"
base_url = "{base_url}"
wire_api = "responses"
requires_openai_auth = false
request_max_retries = 0
stream_max_retries = 0
supports_websockets = false

[analytics]
enabled = false

[feedback]
enabled = false

[otel]
exporter = "none"
metrics_exporter = "none"
trace_exporter = "none"

[features]
apps = false
plugins = false

[projects."{workspace}"]
trust_level = "trusted"
"""


def codex_path() -> Path | None:
    """Where the packaged binary is; None without the package or without its binary."""
    spec = importlib.util.find_spec("codex_cli_bin")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "bin" / "codex"
    return path if path.is_file() else None


def newest_codex() -> Path | None:
    """The newest codex that is there: TRACE_PROXY_TEST_CODEX, else `codex` in the PATH."""
    named = os.environ.get("TRACE_PROXY_TEST_CODEX") or shutil.which("codex")
    return Path(named) if named and Path(named).is_file() else None


needs_newest_codex = pytest.mark.skipif(
    newest_codex() is None,
    reason="no newest codex: npm install -g @openai/codex, or name it by TRACE_PROXY_TEST_CODEX",
)

needs_codex = pytest.mark.skipif(
    codex_path() is None, reason="the real codex is not installed: pip install openai-codex"
)


def app_server() -> list[str]:
    """The command of the real core."""
    path = codex_path()
    assert path is not None
    return [str(path), "app-server", "--listen", "stdio://"]


def codex_home(directory: Path, base_url: str) -> dict[str, str]:
    """Write a home; returns the environment in which codex uses it.

    Args:
        directory: Gets `home` and `workspace`.
        base_url: Of the Responses API that is its only model.
    """
    home, workspace = directory / "home", directory / "workspace"
    home.mkdir(parents=True)
    workspace.mkdir(exist_ok=True)
    config = _CONFIG.format(model=MODEL, base_url=base_url, workspace=workspace)
    (home / "config.toml").write_text(config)
    # HOME as well: a shell that codex starts reads its profile there.
    return {"CODEX_HOME": str(home), "HOME": str(home), "RUST_LOG": "error"}
