"""Settings of threads: the defaults, and what a request overrides."""

import os
from typing import Any, Final

import msgspec

from core_server.config import SandboxMode
from core_server.context import Context, Reply
from core_server.errors import invalid_request
from core_server.protocol.threads import (
    SettingsUpdated,
    SettingsUpdateParams,
    ThreadForkParams,
    ThreadResumeParams,
    ThreadStartParams,
)
from core_server.protocol.turns import TurnStartParams
from core_server.protocol.wire import (
    CollaborationMode,
    FullAccess,
    Nothing,
    ReadOnly,
    SandboxPolicy,
    WorkspaceWrite,
)
from core_server.session.thread import Settings, ThreadMachine

MODE_INSTRUCTIONS: Final = {
    "plan": """\
Plan mode: find out what is to be done and how, ask what is unclear, and change nothing.
When the plan is ready, give it as Markdown between the lines <proposed_plan> and
</proposed_plan>.""",
}
"""What the engine is told in a mode, where the client does not say it itself."""


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


def override(
    context: Context, thread: ThreadMachine, params: TurnStartParams | SettingsUpdateParams
) -> None:
    """Settings that come with a turn stay with its thread, and the client is told.

    Raises:
        WireError: the directory does not exist.
    """
    before = thread.settings
    thread.settings = _replace(
        before,
        **{
            "model": params.model,
            "cwd": _directory(params.cwd, before.cwd),
            "approval_policy": params.approval_policy,
            "approvals_reviewer": params.approvals_reviewer,
            "sandbox": params.sandbox_policy,
            "effort": params.effort,
            "summary": params.summary,
        }
        | _mode(params.collaboration_mode),
    )
    if thread.settings != before:
        told = SettingsUpdated(thread.id, thread.wire_settings())
        context.notify.say("thread/settings/updated", told, thread)


def update(context: Context, params: SettingsUpdateParams) -> Reply:
    """`thread/settings/update`: for the turns that come; a running one goes on as it began."""
    thread = context.loaded(params.thread_id)
    thread.check_writable()
    before = thread.settings
    override(context, thread, params)
    written = context.write(thread) if thread.settings != before else None
    return Reply(Nothing(), written)


def _mode(mode: CollaborationMode | None) -> dict[str, str | None]:
    """A mode brings model, effort and instructions of its own, and stays until the next one."""
    if mode is None:
        return {}
    told = mode.settings.developer_instructions
    return {
        "mode": mode.mode,
        "mode_instructions": MODE_INSTRUCTIONS.get(mode.mode, "") if told is None else told,
        "model": mode.settings.model,
        "effort": mode.settings.reasoning_effort,
    }


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
