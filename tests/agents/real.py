"""Real agents and servers: where they are, and what a test says when they are not.

What comes from PyPI is in the `dev` extra. `codex-acp` is an npm package: found on PATH
(`npm install -g @agentclientprotocol/codex-acp`), or named by TRACE_PROXY_TEST_CODEX_ACP.
TRACE_PROXY_REQUIRE_AGENTS=1 makes a missing one a failure.
"""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).with_name("programs")
REQUIRED = os.environ.get("TRACE_PROXY_REQUIRE_AGENTS") == "1"


def program(name: str, *arguments: str) -> list[str]:
    """The command of one of the programs beside this file."""
    return [sys.executable, "-u", str(PROGRAMS / f"{name}.py"), *arguments]


def codex_acp() -> list[str] | None:
    """The command of the real codex-acp; None where it is not installed."""
    named = os.environ.get("TRACE_PROXY_TEST_CODEX_ACP")
    found = named or shutil.which("codex-acp")
    if found is None or shutil.which("node") is None:
        return None
    return [found] if os.access(found, os.X_OK) else ["node", found]


def needs_package(module: str, name: str) -> pytest.MarkDecorator:
    """Skip where a Python package is missing."""
    return _needs(
        present=importlib.util.find_spec(module) is not None,
        reason=f"{name} is not installed: pip install '{name}'",
    )


def needs_codex_acp() -> pytest.MarkDecorator:
    """Skip where codex-acp is missing."""
    return _needs(
        present=codex_acp() is not None,
        reason="codex-acp is not installed: npm install -g @agentclientprotocol/codex-acp",
    )


def _needs(*, present: bool, reason: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not present and not REQUIRED, reason=reason)
