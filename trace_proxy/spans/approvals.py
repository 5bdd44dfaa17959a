"""The span of a server request: from when it was first asked until somebody decided.

It stands under a service of its own, `client`: whom the core waits for is no part of it,
and has another colour where traces are shown. What is asked and who may answer is
`state.server_requests`; here is only how it shows.
"""

from typing import Final

import msgspec

from trace_proxy.context.span_record import AttributeValue, Kind, Service, SpanRecord
from trace_proxy.protocol import methods
from trace_proxy.spans import semconv
from trace_proxy.state.connection import Connection
from trace_proxy.state.server_requests import ServerRequest

_NAMES: Final = {
    "item/commandExecution/requestApproval": "approval command",
    "execCommandApproval": "approval command",
    "item/fileChange/requestApproval": "approval file change",
    "applyPatchApproval": "approval file change",
    "item/permissions/requestApproval": "approval permissions",
    "item/tool/requestUserInput": "user input",
    "mcpServer/elicitation/request": "elicitation",
}
"""Short ones for what people are asked; the method is on the span."""

_DECISIONS: Final = frozenset({"accept", "acceptForSession", "decline", "cancel"})


def decision(result: bytes | None) -> str:
    """The word for a span: one of the protocol's, `other`, or `error`."""
    if result is None:
        return "error"
    try:
        given = msgspec.json.decode(result, type=dict[str, msgspec.Raw]).get("decision")
        word = None if given is None else msgspec.json.decode(given)
    except msgspec.DecodeError:
        return "other"
    if isinstance(word, dict) and len(word) == 1:
        word = next(iter(word))
        return word if word == "acceptWithExecpolicyAmendment" else "other"
    return word if isinstance(word, str) and word in _DECISIONS else "other"


def record(
    request: ServerRequest, now_ns: int, decided: str, answered_by: Connection | None
) -> SpanRecord | None:
    """The finished span of a server request, None when it is not sampled.

    Args:
        request: The request.
        now_ns: Unix nanoseconds.
        decided: See `decision`; `resolved` when the core settled it, `core_lost`, `drain`.
        answered_by: Whose answer won, if one did.
    """
    if not request.context.flags & 1:
        return None
    method = request.label or methods.server_label(request.method)
    attributes: dict[str, AttributeValue] = {
        semconv.RPC_SYSTEM: "jsonrpc",
        semconv.RPC_METHOD: method,
        semconv.CORE_ID: request.core.index,
        semconv.APPROVAL_DECISION: decided,
        semconv.APPROVAL_ASKED: request.times,
        semconv.APPROVAL_WAIT: max(now_ns - request.start_ns, 0) / 1e9,
        semconv.JSONRPC_REQUEST_ID: str(request.core_id)[: semconv.ID_CHARS],
    }
    if request.thread is not None:
        attributes[semconv.CONVERSATION_ID] = request.thread[: semconv.ID_CHARS]
    if answered_by is not None:
        attributes[semconv.APPROVAL_ANSWERED_BY] = str(answered_by.key)
    if method == "_OTHER":
        attributes[semconv.RPC_METHOD_ORIGINAL] = request.method[: semconv.ORIGINAL_METHOD_CHARS]
    failed = decided in ("error", "core_lost", "drain")
    if failed:
        attributes[semconv.ERROR_TYPE] = decided
    if decided in ("core_lost", "drain"):
        attributes[semconv.ENDED_BY] = decided
    return SpanRecord(
        service=Service.CLIENT,
        name="jsonrpc" if method == "_OTHER" else _NAMES.get(method, method),
        kind=Kind.CLIENT,
        context=request.context,
        parent=request.parent,
        start_ns=request.start_ns,
        end_ns=max(now_ns, request.start_ns),
        attributes=attributes,
        error="The request got no usable answer." if failed else "",
    )
