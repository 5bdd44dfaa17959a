"""Trace context from outside: parsed strictly, ranked, handed on. No span is made here."""
