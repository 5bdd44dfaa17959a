"""Names for what engines produce.

Random, not counted: an id must be unique in its thread over all samples and processes,
and an engine keeps nothing from which it could go on counting. An endpoint's own ids are
not used for items: compatible servers begin at `msg_1` again with each start.
"""

from uuid import uuid4


def new_id(prefix: str) -> str:
    """Return an id such as `msg_0f3c…`; prefixes in use: `msg`, `rs`, `call`."""
    return f"{prefix}_{uuid4().hex}"
