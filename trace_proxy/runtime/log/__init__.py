"""Logs: events with fields, JSON on stderr."""
