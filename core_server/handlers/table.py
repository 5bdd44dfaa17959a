"""Which handler serves which method of `protocol.methods`."""

from collections.abc import Callable
from typing import Any

from core_server.handlers import (
    account,
    execution,
    extras,
    forking,
    goals,
    hosts,
    initialize,
    injection,
    pages,
    reviews,
    settings,
    threads,
    turns,
)
from core_server.protocol.extras import NOTHING

Handler = Callable[..., Any]
"""(context, params) → result, `Reply`, or a coroutine of either."""

HANDLERS: dict[str, Handler] = {
    "initialize": initialize.initialize,
    "thread/start": threads.start,
    "thread/resume": threads.resume,
    "thread/fork": forking.fork,
    "thread/list": pages.list_threads,
    "thread/loaded/list": pages.loaded_list,
    "thread/read": threads.read,
    "thread/archive": threads.archive,
    "thread/unarchive": threads.unarchive,
    "thread/delete": threads.delete,
    "thread/name/set": threads.set_name,
    "thread/unsubscribe": threads.unsubscribe,
    "thread/turns/list": pages.list_turns,
    "thread/items/list": pages.list_items,
    "thread/goal/set": goals.set_goal,
    "thread/goal/get": goals.get_goal,
    "thread/goal/clear": goals.clear_goal,
    "turn/steer": turns.steer,
    "turn/interrupt": turns.interrupt,
    "model/list": account.models,
    "account/read": account.read,
    "account/rateLimits/read": account.rate_limits,
    "account/login/start": account.login,
    "account/login/cancel": account.cancel_login,
    "account/logout": account.logout,
    "account/bedrock/checkGovCloudRequirements": extras.gov_cloud,
    "config/read": account.config,
    "configRequirements/read": account.requirements,
    "command/exec": execution.execute,
    "command/exec/write": execution.write,
    "command/exec/resize": execution.resize,
    "command/exec/terminate": execution.terminate,
    "hooks/list": extras.directories,
    "skills/list": extras.directories,
    "plugin/installed": extras.installed,
    "app/list": extras.nothing_listed,
    "experimentalFeature/list": extras.nothing_listed,
    "mcpServerStatus/list": extras.nothing_listed,
    "collaborationMode/list": extras.modes,
    "thread/readState/update": threads.update_read_state,
    "server/diagnostics": extras.diagnostics,
    "thread/settings/update": settings.update,
    "thread/inject_items": injection.inject,
    "thread/backgroundTerminals/list": extras.terminals,
    "thread/backgroundTerminals/clean": extras.clean_terminals,
    "thread/backgroundTerminals/terminate": extras.terminate_terminal,
    "thread/search": pages.search,
    "thread/searchOccurrences": pages.occurrences,
    "thread/items/read": pages.read_items,
    "thread/sample/cancel": turns.cancel_sample,
    "thread/prepareApprovedPlan": extras.approved_plan,
    "modelProvider/list": extras.providers,
    "account/gatewayOAuth/read": extras.gateway_login,
    "app/read": extras.apps,
    "remoteControl/status/read": extras.remote_control,
    "thread/search/cancel": pages.cancel,
    "thread/search/stream/cancel": pages.cancel,
    "permissionProfile/list": extras.profiles,
    "plugin/list": extras.plugins,
    "externalAgentConfig/detect": extras.detected,
    "host/list": hosts.list_hosts,
    "host/drain": hosts.drain,
    **{name: extras.always(result) for name, _, result in NOTHING},
}

ON_LOADED = frozenset(
    "thread/goal/set thread/goal/get thread/goal/clear turn/start turn/steer turn/interrupt"
    " thread/compact/start thread/shellCommand".split()
)
"""What works on loaded threads only. Where hosts share a store, the thread is loaded first."""

TRACED: dict[str, Handler] = {
    "turn/start": turns.start,
    "thread/compact/start": turns.compact,
    "thread/shellCommand": turns.shell,
    "review/start": reviews.start,
}
"""(context, params, trace) → …: what they begin carries the request's trace context."""

IDENTIFIED: dict[str, Handler] = {
    "thread/search/stream": pages.stream,
    "thread/sample": turns.sample,
}
"""(context, params, the request's id as sent, trace) → …: they can be named while they run."""

ASIDE = frozenset({"thread/sample"})
"""Not in the order of its thread's requests: it takes long, and changes nothing there."""
