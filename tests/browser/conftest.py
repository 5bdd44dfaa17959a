"""The real Jaeger, as the tests of traces have it."""

from tests.jaeger.conftest import jaeger

__all__ = ["jaeger"]
