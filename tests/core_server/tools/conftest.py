"""Lets coverage see into the reapers, which are isolated from all configuration."""

import os

import pytest

from core_server.tools.process import spawn


@pytest.fixture(autouse=True)
def measured_reapers(monkeypatch: pytest.MonkeyPatch) -> None:
    if "COVERAGE_PROCESS_CONFIG" in os.environ:
        monkeypatch.setattr(spawn, "_INTERPRETER_OPTIONS", ["-X", "utf8"])
        monkeypatch.setattr(spawn, "_PASSED_ON", ["COVERAGE_PROCESS_CONFIG", "LD_LIBRARY_PATH"])
