"""Error codes on the wire: JSON-RPC 2.0 section 5.1, and the server range that we use."""

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603

OVERLOADED = -32001
"""Refused for now: overload or drain. `data.retryable` is true."""

OWNED_ELSEWHERE = -32010
"""Another host owns the thread; `data.url` says where that host serves."""

CORE_LOST = -32003
"""The core that held the request died before it answered."""
