"""Every attribute name that we record, in one place: a renamed convention is one line.

OpenTelemetry semantic conventions 1.44 (RPC, JSON-RPC, network, GenAI, process);
names that start with `trace_proxy.` are our own.
"""

from typing import Final

RPC_SYSTEM: Final = "rpc.system.name"
RPC_METHOD: Final = "rpc.method"
RPC_METHOD_ORIGINAL: Final = "rpc.method_original"
ORIGINAL_METHOD_CHARS: Final = 64
"""Of a method that we do not know; real names are shorter."""

RPC_STATUS_CODE: Final = "rpc.response.status_code"
ID_CHARS: Final = 128
"""Of ids that others choose; a UUID has 36."""

JSONRPC_REQUEST_ID: Final = "jsonrpc.request.id"
JSONRPC_VERSION: Final = "jsonrpc.protocol.version"
ERROR_TYPE: Final = "error.type"

NETWORK_TRANSPORT: Final = "network.transport"
NETWORK_PROTOCOL: Final = "network.protocol.name"
NETWORK_PEER_ADDRESS: Final = "network.peer.address"
NETWORK_PEER_PORT: Final = "network.peer.port"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"

OPERATION: Final = "gen_ai.operation.name"
CONVERSATION_ID: Final = "gen_ai.conversation.id"
REQUEST_MODEL: Final = "gen_ai.request.model"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
TOOL_NAME: Final = "gen_ai.tool.name"
TOOL_CALL_ID: Final = "gen_ai.tool.call.id"
PROCESS_EXIT_CODE: Final = "process.exit.code"

CONNECTION_ID: Final = "trace_proxy.connection.id"
CORE_ID: Final = "trace_proxy.core.id"
CLIENT_NAME: Final = "trace_proxy.client.name"
CLIENT_VERSION: Final = "trace_proxy.client.version"
CONTEXT_SOURCE: Final = "trace_proxy.context.source"
ENDED_BY: Final = "trace_proxy.ended_by"
"""`drain`, `overload` or `core_lost`: who ended a span before its time."""
THREAD_ID: Final = "trace_proxy.thread.id"
"""Of a span that is none of an agent's, where `gen_ai.conversation.id` would make it one."""
TOOL_STATUS: Final = "trace_proxy.tool.status"
TURN_ID: Final = "trace_proxy.turn.id"
TURN_STATUS: Final = "trace_proxy.turn.status"
TIME_TO_FIRST_DELTA: Final = "trace_proxy.turn.time_to_first_delta"
DELTAS: Final = "trace_proxy.turn.deltas"
OUTPUT_BYTES: Final = "trace_proxy.turn.output_bytes"
APPROVAL_DECISION: Final = "trace_proxy.approval.decision"
APPROVAL_ASKED: Final = "trace_proxy.approval.asked"
APPROVAL_ANSWERED_BY: Final = "trace_proxy.approval.answered_by"

CONTENT_PARAMS: Final = "trace_proxy.content.params"
CONTENT_RESULT: Final = "trace_proxy.content.result"
CONTENT_ERROR: Final = "trace_proxy.content.error"
CONTENT_ITEM: Final = "trace_proxy.content.item"
CONTENT_OUTPUT: Final = "trace_proxy.content.output"
"""Recorded with `--record-content` only."""
