"""What becomes a span: requests, turns, tool calls, approvals."""
