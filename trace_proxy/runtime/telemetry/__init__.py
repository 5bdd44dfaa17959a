"""Spans and metrics on their way out; nothing waits for a collector.

Imports the SDK, once and before any other module here does: it reads a limit while it is
imported, and raises where the specification wants a warning. We read it ourselves (see
`environment.span_limits`), so it is kept out of the SDK's sight meanwhile.
"""

import os

_LIMIT = "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"
_given = os.environ.pop(_LIMIT, None)
try:
    import opentelemetry.sdk.trace  # noqa: F401 - for what it does while it is imported
finally:
    if _given is not None:
        os.environ[_LIMIT] = _given
