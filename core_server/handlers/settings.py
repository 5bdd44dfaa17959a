"""Settings of threads: the defaults, and what a request overrides."""

import os
from typing import Any

import msgspec

from core_server.config import SandboxMode
from core_server.context import Context
from core_server.errors import invalid_request
from core_server.protocol.threads import (
    SettingsUpdated,
    ThreadForkParams,
    ThreadResumeParams,
    ThreadStartParams,
)
from core_server.protocol.turns import TurnStartParams
from core_server.protocol.wire import (
    FullAccess,
    ReadOnly,
    SandboxPolicy,
    WorkspaceWrite,
)
from core_server.session.thread import Settings, ThreadMachine


def policy_of(mode: SandboxMode) -> SandboxPolicy:
    """The sandbox policy that a mode stands for."""
    match mode:
        case "read-only":
            return ReadOnly()
        case "workspace-write":
            return WorkspaceWrite()
        case "danger-full-access":
            return FullAccess()


def defaults(context: Context) -> Settings:
    """Settings of a thread that asks for nothing."""
    config = context.config
    model = context.engine.models[0]
    return Settings(
        config.model or model.id,
        config.workspace,
        config.approval_policy,
        policy_of(config.sandbox),
    )


def opened_with(
    settings: Settings, params: ThreadStartParams | ThreadResumeParams | ThreadForkParams
) -> Settings:
    """Settings, overridden by what start, resume or fork asks for.

    Raises:
        WireError: the directory does not exist.
    """
    return _replace(
        settings,
        model=params.model,
        cwd=_directory(params.cwd, settings.cwd),
        approval_policy=params.approval_policy,
        approvals_reviewer=params.approvals_reviewer,
        sandbox=policy_of(params.sandbox) if params.sandbox else None,
        base_instructions=params.base_instructions,
        developer_instructions=params.developer_instructions,
    )


def override(context: Context, thread: ThreadMachine, params: TurnStartParams) -> None:
    """Settings that come with a turn stay with its thread, and the client is told.

    Raises:
        WireError: the directory does not exist.
    """
    before = thread.settings
    thread.settings = _replace(
        before,
        model=params.model,
        cwd=_directory(params.cwd, before.cwd),
        approval_policy=params.approval_policy,
        approvals_reviewer=params.approvals_reviewer,
        sandbox=params.sandbox_policy,
        effort=params.effort,
        summary=params.summary,
    )
    if thread.settings != before:
        told = SettingsUpdated(thread.id, thread.wire_settings())
        context.notify.say("thread/settings/updated", told, thread)


def _replace(settings: Settings, **changes: Any) -> Settings:
    given = {name: value for name, value in changes.items() if value is not None}
    return msgspec.structs.replace(settings, **given)


def _directory(cwd: str | None, base: str) -> str | None:
    if cwd is None:
        return None
    path = os.path.normpath(os.path.join(base, cwd))  # noqa: PTH118 - text in, text out
    if not os.path.isdir(path):  # noqa: PTH112 - text in, text out
        raise invalid_request(f"cwd is not a directory: {path[:512]}")
    return path
