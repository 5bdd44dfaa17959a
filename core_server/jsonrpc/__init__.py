"""JSON-RPC as both programs speak it: one parser, one framing, one set of codes.

The only package of `core_server` that `trace_proxy` imports. Two parsers on one
byte stream invite request smuggling; one cannot disagree with itself. It imports
nothing of ours and does no I/O.
"""
