"""Spans and metrics on their way out; nothing waits for a collector."""
